"""LeNet-5 for images of digits and the like."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn.field_checks import check_positive
from flax_enn.networks.layers import Dtype, fan_in_init


class LeNet5(nn.Module):
  """Three 5x5 convolutions with max pooling, then a dense layer.

  LeCun et al., "Gradient-Based Learning Applied to Document Recognition"
  (Proc. IEEE, 1998) in the modern form of enn (`enn/networks/lenet.py`): relu
  and max pooling.

  Attributes:
    classes: number of outputs C.
    channels: of the convolutions, each of which is pooled by two.
    hidden: width of the dense layer, whose activation is the feature `hidden`.
    dtype: of the computation; parameters are float32.
  """

  classes: int
  channels: Sequence[int] = (6, 16, 120)
  hidden: int = 84
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'channels', 'hidden')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, ch]` to logits `[B, C]` and features.

    The features are `inputs`, `block_0`, `block_1`, … (the convolutions after
    pooling), `hidden` and `logits`.
    """
    del train
    features = {'inputs': x}
    h = x
    for i, channels in enumerate(self.channels):
      h = nn.Conv(
          channels,
          (5, 5),
          dtype=self.dtype,
          kernel_init=fan_in_init,
          name=f'conv_{i}',
      )(h)
      h = nn.max_pool(nn.relu(h), (2, 2), strides=(2, 2), padding='SAME')
      features[f'block_{i}'] = h
    h = h.reshape(h.shape[0], -1)
    h = features['hidden'] = nn.relu(self._dense(self.hidden, 'dense', h))
    logits = features['logits'] = self._dense(self.classes, 'out', h)
    return logits, features

  def _dense(self, size: int, name: str, h: jax.Array) -> jax.Array:
    return nn.Dense(
        size, dtype=self.dtype, kernel_init=fan_in_init, name=name
    )(h)
