"""A random perceptron, whose layers parts of the index generate."""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import Index
from flax_enn.field_checks import (
    check_finite,
    check_not_negative,
    check_positive,
)
from flax_enn.networks.checks import check_vector


class IndependentLayersPrior(nn.Module):
  """A perceptron with weights `W_i z_i` and biases `b_i z_i` in layer i.

  The index is cut into one part z_i for each layer, so that layers vary
  independently; where it has fewer entries than there are layers, each reads
  all of it. The vector that generates a weight has norm 1 in the first layer
  and one over the root of the fan in afterwards, that of a bias norm 1: with
  z ~ N(0, I), outputs keep the variance of the inputs. (As in enn: the first
  layer is not divided by its fan in.) The index is a vector `[D]`: it is no
  prior for networks of a PRNG key.

  The prior of a hypermodel in enn: `networks/hypermodels.py:
  PriorMLPIndependentLayers`. Its weights are never trained: `WithPrior` runs it
  inside `Frozen`.

  Attributes:
    hiddens: widths of the hidden layers.
    weight_variance: factor on the variance of the weights.
    bias_variance: factor on the variance of the biases.
    bias_shift: added to every entry of the vectors that generate biases.
  """

  hiddens: Sequence[int]
  weight_variance: float = 1.0
  bias_variance: float = 1.0
  bias_shift: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens')
    check_not_negative(self, 'weight_variance', 'bias_variance')
    check_finite(self, 'bias_shift')

  @nn.compact
  def __call__(self, x: jax.Array, index: Index, classes: int) -> jax.Array:
    """Maps `[B, ...]` and an index `[D]` to `[B, C]`, float32."""
    check_vector(index, 'IndependentLayersPrior')
    sizes = (*self.hiddens, classes)
    parts = [index] * len(sizes)
    if len(index) >= len(sizes):
      parts = jnp.array_split(index, len(sizes))
    h = x.reshape(x.shape[0], -1)
    normal = nn.initializers.normal(1.0)
    for i, (size, z) in enumerate(zip(sizes, parts)):
      h = nn.relu(h) if i else h
      shape = (h.shape[-1], size, len(z))
      kernel = _unit(self.param(f'kernel_{i}', normal, shape))
      bias = _unit(self.param(f'bias_{i}', normal, shape[1:]))
      fan_in = shape[0] if i else 1
      kernel = kernel * math.sqrt(self.weight_variance / fan_in)
      bias = bias * math.sqrt(self.bias_variance) + self.bias_shift
      h = h @ (kernel @ z) + bias @ z
    return h


def _unit(vectors: jax.Array) -> jax.Array:
  """Vectors `[..., D]` of norm 1."""
  return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
