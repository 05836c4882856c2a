"""A base whose dense layers have learned noise in their biases."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_positive
from flax_enn.networks.key_index import draw


class GaussianNoise(nn.Module):
  """Dense layers `W h + b + c · noise`, noise ~ N(0, I) with a learned scale c.

  The index is a PRNG key: the noise of the i-th `nn.Dense` of the base that is
  called, one number for each unit, is drawn from the key folded with i, and all
  examples share it. Instead of a key the index may be a list of the noise of
  each layer, the last one too. What the base computes before its first dense
  layer has noise, that layer's product too, is the same for all indices.

  Use: the smallest stochastic network, for comparisons; c may learn to be 0.
  Cost: a forward of the base, from its first dense layer on, for every index;
    one number for each unit.
  Config: dict(name='gaussian_noise', base=dict(name='mlp', hiddens=(50, 50)),
    init_scale=0.1)
  Source: enn `networks/gaussian_enn.py`; no paper.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`, with a dense
      layer; each gets a parameter `noise_scale`.
    init_scale: initial value of every c.
  """

  base: nn.Module
  init_scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'init_scale')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`.

    Raises:
      ValueError: the base has no dense layer.
    """
    init, number = nn.initializers.constant(self.init_scale), 0

    def add_noise(call, args, kwargs, context):
      nonlocal number
      out = call(*args, **kwargs)
      if not isinstance(context.module, nn.Dense):
        return out
      scale = context.module.param('noise_scale', init, out.shape[-1:])
      noise = draw(index, number, lambda k: jax.random.normal(k, scale.shape))
      number += 1
      noisy = out + (scale * noise).astype(out.dtype)
      return sharding.constrain(noisy, 'batch')

    x = sharding.constrain(x, 'base_batch')
    with nn.intercept_methods(add_noise):
      logits, _ = self.base(x, train=train)
    if not number:
      raise ValueError(
          f'base is {type(self.base).__name__}, which has no nn.Dense for the'
          ' noise; take another base, or another network'
      )
    return Output(promote_to_float32(logits))


def example() -> Example:
  """A tiny perceptron with noise, for the tests of the laws."""
  net = GaussianNoise(MLP(hiddens=(6,), classes=3))
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0',))
