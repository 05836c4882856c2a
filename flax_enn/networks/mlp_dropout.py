"""A perceptron with dropout, whose masks are the index."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import dense
from flax_enn.networks.key_index import draw
from flax_enn.networks.layers import Dtype, activation


class MLPDropout(nn.Module):
  """A perceptron whose units are each left out with probability `rate`.

  Gal and Ghahramani, "Dropout as a Bayesian Approximation", arXiv:1506.02142.
  The index is a PRNG key: the mask on what enters layer i is drawn from the key
  folded with i, and all examples share it, so that an index is one function.
  Masks are there in training and in evaluation alike. Instead of a key the
  index may be a list of masks, of the inputs and then of every hidden layer,
  true where a unit is kept.

  Use: the cheapest change to a network that has dropout already.
  Cost: a forward of the perceptron for every index; no parameters.
  Config: dict(name='mlp_dropout', hiddens=(50, 50), rate=0.1)
  Source: arXiv:1506.02142, section 3; enn `networks/dropout.py`.

  Attributes:
    hiddens: widths of the hidden layers.
    classes: number of outputs C.
    rate: probability that a unit is left out; what is kept is scaled up.
    dropout_input: whether inputs are left out too.
    activation: name of the hidden activation in `flax.linen`.
    nonzero_bias: whether the first layer's bias starts random.
    dtype: of the computation; parameters are float32.
  """

  hiddens: Sequence[int]
  classes: int
  rate: float = 0.05
  dropout_input: bool = True
  activation: str = 'relu'
  nonzero_bias: bool = True
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens', 'classes')
    activation(self.activation)

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(
      self, x: jax.Array, index: Index, *, train: bool = False
  ) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    del train  # A mask is part of the function.
    if not 0 <= self.rate < 1:
      raise ValueError(
          f'the `rate` of MLPDropout is {self.rate}; it is a probability, and'
          ' below 1'
      )
    h = sharding.constrain(x.reshape(x.shape[0], -1), 'batch')
    options = {'nonzero_bias': self.nonzero_bias, 'dtype': self.dtype}
    for i, size in enumerate((*self.hiddens, self.classes)):
      h = activation(self.activation)(h) if i else h
      h = self._mask(h, index, i) if i or self.dropout_input else h
      h = dense(h, i, size, **options)
    return Output(sharding.constrain(promote_to_float32(h), 'batch'))

  def _mask(self, h: jax.Array, index: Index, number: int) -> jax.Array:
    keep = 1 - self.rate
    shape = h.shape[-1:]
    mask = draw(index, number, lambda k: jax.random.bernoulli(k, keep, shape))
    return jnp.where(mask, h / keep, jnp.zeros_like(h))


def example() -> Example:
  """A tiny perceptron with dropout, for the tests of the laws."""
  net = MLPDropout(hiddens=(6, 6), classes=3, rate=0.2)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x)
