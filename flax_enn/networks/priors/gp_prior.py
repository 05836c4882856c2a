"""A draw from a Gaussian process as a prior function, by random features."""

import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.field_checks import check_finite, check_positive


class GPPrior(nn.Module):
  """`sum_k alpha_k cos(gamma_k w_k · x + b_k) / sqrt(M)`, one random function.

  With w ~ N(0, I), b ~ U(0, 2 pi) and alpha ~ N(0, 1), the functions are drawn
  from a Gaussian process as M grows, whose kernel for one gamma is
  `scale^2 / 2 · exp(-gamma^2 |x - x'|^2 / 2)`: Rahimi and Recht, "Random
  Features for Large-Scale Kernel Machines", NeurIPS 2007. (The half is enn's:
  `networks/priors.py:make_random_feat_gp`.) Outputs share alpha, and are
  uncorrelated.

  By itself it is the same function at every index. D of them that the index
  combines, or one for each member of an ensemble, are
  `EnsemblePrior(GPPrior(…))`. Its weights are never trained: `WithPrior` runs
  it inside `Frozen`.

  Attributes:
    classes: number of outputs C.
    features: M, number of random features.
    gamma: how fast the function wiggles, one over its length scale; or the
      (lowest, highest) of a range that each feature draws its own from.
    scale: factor on the output.
  """

  classes: int
  features: int = 100
  gamma: float | tuple[float, float] = 1.0
  scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'features')
    check_finite(self, 'gamma', 'scale')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `[B, ...]` to the output `[B, C]` of a backbone without features."""
    del train
    x = x.reshape(x.shape[0], -1)
    features, normal = self.features, nn.initializers.normal(1.0)
    shape = (features, x.shape[-1], self.classes)
    weights = self.param('weights', normal, shape)
    bias = self.param(
        'bias', nn.initializers.uniform(2 * math.pi), (features, self.classes)
    )
    alpha = self.param('alpha', normal, (features,))
    gamma = self.gamma
    if isinstance(gamma, tuple):
      gamma = self.param('gamma', _uniform, (features, 1), *gamma)
    phase = jnp.einsum('bf,kfc->bkc', x, weights)
    waves = jnp.cos(gamma * phase + bias)
    out = jnp.einsum('bkc,k->bc', waves, alpha) / math.sqrt(features)
    return self.scale * out, {}


def _uniform(
    key: jax.Array, shape: tuple[int, ...], low: float, high: float
) -> jax.Array:
  return jax.random.uniform(key, shape, minval=low, maxval=high)
