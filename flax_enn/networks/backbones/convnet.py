"""A small convolutional base for small images."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn.field_checks import (
    check_positive,
    check_share,
)
from flax_enn.networks.layers import BatchNorm, Dtype, fan_in_init


class ConvNet(nn.Module):
  """3x3 convolutions with batch norm, then a dense layer; made for digits.

  Attributes:
    channels: of the convolutions; from the second on they halve the image.
    hidden: width of the dense layer, whose activation is the feature `hidden`.
    classes: number of outputs C.
    bn_batch: examples that share batch statistics, see `BatchNorm`.
    bn_momentum: of the running batch statistics.
    dtype: of the computation; parameters and statistics are float32.
  """

  classes: int
  channels: Sequence[int] = (16, 32)
  hidden: int = 64
  bn_batch: int | None = None
  bn_momentum: float = 0.9
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'channels', 'hidden')
    check_share(self, 'bn_momentum')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, 1 or 3]` to logits `[B, C]` and features.

    The features are `inputs`, `block_0`, `block_1`, … (the convolutions after
    their activation), `hidden` and `logits`.
    """
    features = {'inputs': x}
    h = x
    for i, channels in enumerate(self.channels):
      h = nn.Conv(
          channels,
          (3, 3),
          strides=1 if i == 0 else 2,
          use_bias=False,
          dtype=self.dtype,
          kernel_init=fan_in_init,
          name=f'conv_{i}',
      )(h)
      h = BatchNorm(
          group=self.bn_batch,
          momentum=self.bn_momentum,
          dtype=self.dtype,
          name=f'norm_{i}',
      )(h, train=train)
      h = features[f'block_{i}'] = nn.relu(h)
    h = h.reshape(h.shape[0], -1)
    h = self._dense(self.hidden, 'dense', h)
    h = features['hidden'] = nn.relu(h)
    logits = features['logits'] = self._dense(self.classes, 'out', h)
    return logits, features

  def _dense(self, size: int, name: str, h: jax.Array) -> jax.Array:
    return nn.Dense(
        size, dtype=self.dtype, kernel_init=fan_in_init, name=name
    )(h)
