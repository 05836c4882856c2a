"""A Gaussian process of random features on a base, with one pass of training.

Liu et al., "Simple and Principled Uncertainty Estimation with Deterministic
Deep Learning via Distance Awareness" (arXiv:2006.10108).
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding, step_batch
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive, check_share
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.backbones.spectral_norm import SpectralNorm
from flax_enn.networks.features import run_features
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.key_index import draw
from flax_enn.networks.layers import fan_in_init


class Sngp(nn.Module):
  """`beta(z)' psi(phi(x))`, beta(z) ~ N(beta, P^-1) for every output.

  psi are random Fourier features of a Gaussian kernel, drawn once. With
  `train=True` the output is that of the mean weights beta, whatever the index,
  and the precision P = ridge I + S takes in the batch: in the collection
  `precision`, `S <- decay S + sum_b psi_b psi_b'`. With decay 1 S is the sum
  over all examples since the beginning; else over the last B / (1 - decay) of
  them. The output of the mean weights is `base`.

  Use: one network that knows how far an input is from its training data; give
    it a `spectral_norm` of a residual base.
  Cost: one more index is a draw of M·C weights and a triangular solve; M·C
    parameters, and M^2 numbers of the precision.
  Config: dict(name='sngp', features=('hidden_1',), length_scale=0.3,
    base=dict(name='spectral_norm', net=dict(name='mlp', hiddens=(50, 50))))
  Source: arXiv:2006.10108, section 3.2 and algorithm 1, with the precision of
    a Gaussian likelihood, as in the published code by default.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits, features)`, whose logits are
      not used unless they are among the features.
    features: names of the base's features that make up phi(x), flattened and
      concatenated in this order.
    classes: number of outputs C.
    num_features: M random features.
    length_scale: of the kernel, in distances between phi(x): a spectral norm
      keeps these small, and a much larger length lets nothing be fitted.
    ridge: precision of the weights before any data.
    decay: of the precision that earlier batches have brought.
  """

  base: nn.Module
  features: Sequence[str]
  classes: int
  num_features: int = 256
  length_scale: float = 1.0
  ridge: float = 1.0
  decay: float = 0.99

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'num_features', 'length_scale', 'ridge')
    check_share(self, 'decay')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    _, phi = run_features(self.base, x, self.features, 'Sngp', train=train)
    phi = promote_to_float32(phi)
    random = RandomFeatures(self.num_features, self.length_scale, parent=None)
    spread = Frozen(random, name='random')(
        sharding.constrain(phi, 'base_batch')
    )
    psi = sharding.constrain(spread, 'batch')
    shape = (self.num_features, self.classes)
    mean = psi @ self.param('kernel', fan_in_init, shape)
    size = self.num_features
    sums = self.variable('precision', 'sum', jnp.zeros, (size, size))
    if train:
      if not self.is_initializing():
        mask = step_batch.examples(len(spread), 'Sngp').mask
        fixed = jax.lax.stop_gradient(spread) * mask[:, None]
        sums.value = self.decay * sums.value + fixed.T @ fixed
      return Output(mean, base=mean)
    precision = sums.value + self.ridge * jnp.eye(size)
    factor = jnp.linalg.cholesky(precision)
    noise = draw(index, 0, lambda key: jax.random.normal(key, shape))
    # psi' P^-1/2 noise; the solve does not depend on the index.
    scaled = jax.scipy.linalg.solve_triangular(factor, psi.T, lower=True).T
    return Output(mean + scaled @ noise, base=mean)


class RandomFeatures(nn.Module):
  """`sqrt(2 / M) cos(W h / length_scale + b)`: Rahimi and Recht (NIPS 2007).

  Their products are close to the kernel exp(-|h - h'|^2 / (2 length_scale^2)).

  Attributes:
    size: M.
    length_scale: of the kernel.
  """

  size: int
  length_scale: float = 1.0

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    """Maps `[B, F]` to `[B, M]`."""
    kernel = self.param(
        'kernel', nn.initializers.normal(1), (h.shape[-1], self.size)
    )
    bias = self.param(
        'bias', nn.initializers.uniform(2 * math.pi), (self.size,)
    )
    return math.sqrt(2 / self.size) * jnp.cos(
        h @ kernel / self.length_scale + bias
    )


def example() -> Example:
  """A tiny process on normed features, for the tests of the laws."""
  base = SpectralNorm(MLP(hiddens=(), classes=5), iterations=2)
  net = Sngp(base, ('logits',), classes=3, num_features=7)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0', 'random'))
