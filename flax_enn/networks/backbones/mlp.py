"""A multi-layer perceptron as a base network."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn.field_checks import check_positive
from flax_enn.networks.layers import Dtype, activation, fan_in_init


class MLP(nn.Module):
  """Dense layers over the flattened input, every layer exposed as a feature.

  Attributes:
    hiddens: widths of the hidden layers.
    classes: number of outputs C.
    activation: name of the hidden activation in `flax.linen`.
    nonzero_bias: whether the first layer's bias starts random, so that
      ensemble members differ in where their first units switch (as in enn).
    dtype: of the computation; parameters are float32.
  """

  hiddens: Sequence[int]
  classes: int
  activation: str = 'relu'
  nonzero_bias: bool = False
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens', 'classes')
    activation(self.activation)

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `[B, ...]` to logits `[B, C]` and features.

    The features are `inputs` (flattened), `hidden_0`, `hidden_1`, … after their
    activation, and `logits`.
    """
    del train
    h = x.reshape(x.shape[0], -1)
    features = {'inputs': h}
    options = {'nonzero_bias': self.nonzero_bias, 'dtype': self.dtype}
    for i, size in enumerate(self.hiddens):
      h = dense(h, i, size, **options)
      h = features[f'hidden_{i}'] = activation(self.activation)(h)
    logits = features['logits'] = dense(
        h, len(self.hiddens), self.classes, **options
    )
    return logits, features


def dense(
    h: jax.Array, i: int, size: int, *, nonzero_bias: bool, dtype: Dtype
) -> jax.Array:
  """Layer i of a perceptron, a submodule of the module that calls this.

  Args:
    h: `[B, F]` what enters it.
    i: its number, which names it.
    size: number of its outputs.
    nonzero_bias: whether the bias of the first layer starts random.
    dtype: of the computation; parameters are float32.
  """
  bias = nn.initializers.zeros
  if i == 0 and nonzero_bias:
    bias = nn.initializers.truncated_normal(h.shape[-1] ** -0.5)
  return nn.Dense(
      size,
      dtype=dtype,
      kernel_init=fan_in_init,
      bias_init=bias,
      name=f'layer_{i}',
  )(h)
