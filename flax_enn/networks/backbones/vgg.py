"""VGG with batch norm and strides in the place of max pooling."""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import (
    check_positive,
    check_share,
)
from flax_enn.networks.layers import BatchNorm, Dtype, fan_in_init


class VGG(nn.Module):
  """3x3 convolutions, each with batch norm, then the mean over the image.

  Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale
  Image Recognition" (arXiv:1409.1556) in the form of enn
  (`enn/networks/vgg.py`): batch norm without a scale, no max pooling, one dense
  layer.

  Attributes:
    classes: number of outputs C.
    channels: of the convolutions.
    strides: of each of them.
    bn_batch: examples that share batch statistics, see `BatchNorm`.
    bn_momentum: of the running batch statistics.
    dtype: of the computation up to the pooled features; parameters,
      statistics, pooled features and logits are float32.
  """

  classes: int
  channels: Sequence[int] = (
      64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512,
  )  # fmt: skip
  strides: Sequence[int] = (1, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1)
  bn_batch: int | None = None
  bn_momentum: float = 0.999
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'channels', 'strides')
    check_share(self, 'bn_momentum')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, ch]` to logits `[B, C]` and features.

    The features are `inputs`, `block_0`, `block_1`, … (the convolutions after
    their activation), `pooled` (`[B, F]`) and `logits`.

    Raises:
      ValueError: there are not as many strides as channels.
    """
    if len(self.channels) != len(self.strides):
      raise ValueError(
          f'VGG has {len(self.channels)} channels and {len(self.strides)}'
          ' strides; set `channels` and `strides` to one entry for each'
          ' convolution'
      )
    features = {'inputs': x}
    h = x
    for i, (channels, stride) in enumerate(zip(self.channels, self.strides)):
      h = nn.Conv(
          channels,
          (3, 3),
          strides=stride,
          dtype=self.dtype,
          kernel_init=fan_in_init,
          name=f'conv_{i}',
      )(h)
      h = BatchNorm(
          group=self.bn_batch,
          momentum=self.bn_momentum,
          use_scale=False,
          dtype=self.dtype,
          name=f'norm_{i}',
      )(h, train=train)
      h = features[f'block_{i}'] = nn.relu(h)
    pooled = features['pooled'] = promote_to_float32(h).mean((1, 2))
    logits = features['logits'] = nn.Dense(
        self.classes, kernel_init=fan_in_init, name='out'
    )(pooled)
    return logits, features
