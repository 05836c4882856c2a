"""A base whose dense layers have learned noise in their biases."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.adapters import Layer, run_adapted
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.key_index import draw


class GaussianNoise(nn.Module):
  """Dense layers `W h + b + c ∘ noise`, noise ~ N(0, I) with a learned scale c.

  The index is a PRNG key: the noise of the i-th of these layers, one number for
  each unit, is drawn from the key folded with i, and all examples share it.
  Instead of a key the index may be a list of the noise of each of them.

  Use: the smallest stochastic network, for comparisons; c may learn to be 0.
  Cost: a forward of the base from its first noise on for every index; one
    number for each unit.
  Config: dict(name='gaussian_noise', base=dict(name='mlp', hiddens=(50, 50)),
    init_scale=0.1)
  Source: enn `networks/gaussian_enn.py`; no paper.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`. Batch
      statistics behind a noise would depend on the index: train such a base
      with `layers` that are behind them, or `Frozen`.
    init_scale: initial value of every c.
    layers: regular expression of the names of the layers with noise; the name
      of one is its path in the base, joined by `_`.
  """

  base: nn.Module
  init_scale: float = 1.0
  layers: str = '.*'

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'init_scale')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    noises = {}

    def adapter(name: str):
      number = len(noises)
      noises[name] = Noise(self.init_scale, parent=self, name=f'noise_{name}')
      return lambda layer, h: noises[name](layer, h, index, number)

    logits = run_adapted(
        self.base, x, adapter, (nn.Dense,), self.layers, train=train
    )
    return Output(promote_to_float32(logits))


class Noise(nn.Module):
  """`layer(h) + c ∘ noise`, the noise of one layer.

  Attributes:
    init_scale: initial value of every c.
  """

  init_scale: float

  @nn.compact
  def __call__(
      self, layer: Layer, h: jax.Array, index: Index, number: int
  ) -> jax.Array:
    """Maps `[B, ..., F]` to `[B, ..., H]`; `number` is that of the draw."""
    out = layer(h)
    init = nn.initializers.constant(self.init_scale)
    scale = self.param('scale', init, out.shape[-1:])
    noise = draw(index, number, lambda k: jax.random.normal(k, scale.shape))
    return out + (scale * noise).astype(out.dtype)


def example() -> Example:
  """A tiny perceptron with noise in its output, for the tests of the laws."""
  net = GaussianNoise(MLP(hiddens=(6,), classes=3), layers='layer_1')
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0',))
