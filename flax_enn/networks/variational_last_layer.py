"""A Bayesian last layer that is trained by variational inference."""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.features import run_features
from flax_enn.networks.key_index import draw
from flax_enn.networks.layers import fan_in_init


class VariationalLastLayer(nn.Module):
  """`(mean + softplus(rho) ∘ noise(z))' (phi(x), 1)`.

  Every weight and bias of the last layer is Gaussian by itself. The index is a
  PRNG key, from which the noise is drawn. At the mean weights the output is
  `base`, and its variance over the index is `extra['variance']`. What a loss
  of weights needs: `params['mean']` and `params['rho']`, two trees of `kernel`
  and `bias`, and at each index the same tree of weights, `extra['generated']`.
  Trained by the losses `vbll_bound`, in closed form, and `diagonal_kl`; or by
  `nll` and either this or `mixture_kl`, an ELBO whose expectation is sampled.

  Use: uncertainty of the last layer that is trained with the features, at the
    price of a plain network.
  Cost: one more index is a draw of F·C weights and their product; 2 F·C
    parameters.
  Config: dict(name='variational_last_layer', features=('hidden_1',),
    base=dict(name='mlp', hiddens=(50, 50)))
  Source: Harrison et al., arXiv:2404.11599, section 3, with a diagonal
    posterior.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits, features)`, whose logits are
      not used unless they are among the features.
    features: names of the base's features that make up phi(x), flattened and
      concatenated in this order.
    classes: number of outputs C.
    init_scale: initial standard deviation of a weight, times that of `mean`:
      1 / sqrt(F).
  """

  base: nn.Module
  features: Sequence[str]
  classes: int
  init_scale: float = 0.1

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'init_scale')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    _, phi = run_features(
        self.base, x, self.features, 'VariationalLastLayer', train=train
    )
    phi = promote_to_float32(phi)
    width = phi.shape[-1]
    shapes = {'bias': (self.classes,), 'kernel': (width, self.classes)}
    means = self.param('mean', self._init_mean, shapes)
    rho = math.log(math.expm1(self.init_scale / math.sqrt(width)))
    rhos = self.param(
        'rho', lambda _: {k: jnp.full(v, rho) for k, v in shapes.items()}
    )
    scales = {k: nn.softplus(rhos[k]) for k in shapes}
    squares = {k: jnp.square(scales[k]) for k in shapes}
    variance = jnp.square(phi) @ squares['kernel'] + squares['bias']
    noise = {
        name: draw(index, i, lambda key, s=shape: jax.random.normal(key, s))
        for i, (name, shape) in enumerate(shapes.items())
    }
    mean = phi @ means['kernel'] + means['bias']
    difference = {k: scales[k] * noise[k] for k in shapes}
    out = mean + phi @ difference['kernel'] + difference['bias']
    generated = {k: means[k] + difference[k] for k in shapes}
    extra = {'generated': generated, 'variance': variance}
    return Output(out, base=mean, extra=extra)

  def _init_mean(self, key: jax.Array, shapes: Any) -> Any:
    kernel = fan_in_init(key, shapes['kernel'])
    return {'bias': jnp.zeros(shapes['bias']), 'kernel': kernel}


def example() -> Example:
  """A tiny Bayesian last layer, for the tests of the laws."""
  base = MLP(hiddens=(), classes=5)
  net = VariationalLastLayer(base, ('logits',), classes=3)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('base',))
