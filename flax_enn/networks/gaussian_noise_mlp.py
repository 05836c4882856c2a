"""A perceptron whose units have learned noise in their biases."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.key_index import draw
from flax_enn.networks.layers import Dtype, activation, fan_in_init


class GaussianNoiseMLP(nn.Module):
  """Layers `W h + b + c · noise`, noise ~ N(0, I) with a learned scale c.

  The index is a PRNG key: the noise of layer i, one number for each unit, is
  drawn from the key folded with i, and all examples share it. Instead of a key
  the index may be a list of the noise of each layer, the last one too. The
  product of the first layer is the same for all indices.

  Use: the smallest stochastic perceptron, for comparisons; c may learn to be 0.
  Cost: a forward of all layers but the first for every index; one number for
    each unit.
  Config: dict(name='gaussian_noise_mlp', hiddens=(50, 50), init_scale=0.1)
  Source: enn `networks/gaussian_enn.py`; no paper.

  Attributes:
    hiddens: widths of the hidden layers.
    classes: number of outputs C.
    init_scale: initial value of every c.
    activation: name of the hidden activation in `flax.linen`.
    dtype: of the computation; parameters are float32.
  """

  hiddens: Sequence[int]
  classes: int
  init_scale: float = 1.0
  activation: str = 'relu'
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    activation(self.activation)

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(
      self, x: jax.Array, index: Index, *, train: bool = False
  ) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    del train
    h = sharding.constrain(x.reshape(x.shape[0], -1), 'base_batch')
    scale_init = nn.initializers.constant(self.init_scale)
    for i, size in enumerate((*self.hiddens, self.classes)):
      h = activation(self.activation)(h) if i else h
      dense = nn.Dense(
          size, dtype=self.dtype, kernel_init=fan_in_init, name=f'layer_{i}'
      )
      h = sharding.constrain(dense(h), 'batch')
      scale = self.param(f'noise_{i}', scale_init, (size,))
      noise = draw(index, i, lambda k, s=scale.shape: jax.random.normal(k, s))
      h = h + (scale * noise).astype(h.dtype)
    return Output(promote_to_float32(h))


def example() -> Example:
  """A tiny perceptron with noise, for the tests of the laws."""
  net = GaussianNoiseMLP(hiddens=(6,), classes=3)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0',))
