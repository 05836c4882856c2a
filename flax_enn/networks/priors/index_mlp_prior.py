"""A random perceptron of the input and the index as a prior function."""

from collections.abc import Sequence
import math

from flax import linen as nn
import jax

from flax_enn.core import Index, promote_to_float32
from flax_enn.field_checks import check_not_negative, check_positive
from flax_enn.networks.checks import check_vector
from flax_enn.networks.layers import Dtype, IndexDense

# Standard deviation of a standard normal that is cut at two.
_CUT = 0.87962566103423978


class IndexMLPPrior(nn.Module):
  """`mlp([x, z])` with random weights: no linear function of the index.

  The index is a vector `[D]`: it is no prior for networks of a PRNG key.
  enn: `networks/priors.py:get_random_mlp_with_index`. Its weights are never
  trained: `WithPrior` runs it inside `Frozen`.

  Attributes:
    hiddens: widths of the hidden layers.
    weight_variance: of the weights, times their fan in.
    bias_std: standard deviation of the biases.
    dtype: of the computation.
  """

  hiddens: Sequence[int] = (10, 10)
  weight_variance: float = 3.0
  bias_std: float = 0.1
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens')
    check_not_negative(self, 'weight_variance', 'bias_std')

  @nn.compact
  def __call__(self, x: jax.Array, index: Index, classes: int) -> jax.Array:
    """Maps `[B, ...]` and an index `[D]` to `[B, C]`, float32."""
    check_vector(index, 'IndexMLPPrior')
    bias = nn.initializers.truncated_normal(self.bias_std)
    h = x.reshape(x.shape[0], -1)
    for i, size in enumerate((*self.hiddens, classes)):
      if i == 0:
        layer = IndexDense(
            size, self.dtype, self._init, bias, name='layer_0'
        )
        h = layer(h, index)
        continue
      dense = nn.Dense(
          size,
          dtype=self.dtype,
          kernel_init=self._init(h.shape[-1]),
          bias_init=bias,
          name=f'layer_{i}',
      )
      h = dense(nn.relu(h))
    return promote_to_float32(h)

  def _init(self, fan_in: int) -> nn.initializers.Initializer:
    # Cut at two standard deviations, and rescaled to what they were.
    std = math.sqrt(self.weight_variance / fan_in) / _CUT
    return nn.initializers.truncated_normal(std)
