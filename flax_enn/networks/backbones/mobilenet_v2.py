"""MobileNetV2 as a base, with its batch norms folded into the convolutions.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks"
(arXiv:1801.04381), table 2.
"""

from collections.abc import Sequence

from flax import linen as nn
import jax

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.networks.layers import Dtype, fan_in_init

# Expansion, channels, blocks, stride of the first of them.
GROUPS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
    (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip


class MobileNetV2(nn.Module):
  """Inverted residuals with depthwise convolutions, for inference.

  Every convolution has a bias and there is no batch norm: a trained one is
  folded into the convolution before it. They are `conv_0`, `conv_1` … in the
  order in which they run, the last layer, of 1x1, among them; padding is that
  of TensorFlow.

  Attributes:
    classes: number of outputs C.
    groups: expansion, channels, blocks and stride of each group.
    stem: channels of the first convolution.
    width: of the last features.
    dtype: of the computation; parameters, pooled features and logits are
      float32.
  """

  classes: int
  groups: Sequence[Sequence[int]] = GROUPS
  stem: int = 32
  width: int = 1280
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'groups', 'stem', 'width')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, 3]` to logits `[B, C]` and features.

    The features are `pooled` `[B, width]` and `logits`.
    """
    del train
    count = 0

    def conv(h: jax.Array, channels: int, side: int = 1, stride: int = 1,
             groups: int = 1) -> jax.Array:  # fmt: skip
      nonlocal count
      layer = nn.Conv(
          channels,
          (side, side),
          strides=stride,
          feature_group_count=groups,
          dtype=self.dtype,
          kernel_init=fan_in_init,
          name=f'conv_{count}',
      )
      count += 1
      return layer(h)

    h = nn.relu6(conv(x, self.stem, side=3, stride=2))
    for expansion, channels, blocks, first in self.groups:
      for block in range(blocks):
        shortcut, inner = h, h.shape[-1] * expansion
        if expansion > 1:
          h = nn.relu6(conv(h, inner))
        stride = first if block == 0 else 1
        h = nn.relu6(conv(h, inner, side=3, stride=stride, groups=inner))
        h = conv(h, channels)
        if h.shape == shortcut.shape:
          h += shortcut
    h = nn.relu6(conv(h, self.width))
    pooled = promote_to_float32(h).mean((1, 2), keepdims=True)
    logits = promote_to_float32(conv(pooled, self.classes))[:, 0, 0]
    return logits, {'pooled': pooled[:, 0, 0], 'logits': logits}
