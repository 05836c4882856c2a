"""Residual networks as bases: those of ImageNet and those of CIFAR.

He et al., "Identity Mappings in Deep Residual Networks" (arXiv:1603.05027) for
the pre-activation form of ImageNet, "Deep Residual Learning" (arXiv:1512.03385,
section 4.2) for the thin ones of CIFAR; both as in enn
(`enn/networks/resnet/lib.py`), whose published checkpoints they fit.
"""

from collections.abc import Sequence
import functools
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import (
    check_positive,
    check_share,
)
from flax_enn.networks.layers import (
  BatchNorm,
  Dtype,
  fan_in_init,
)

# Blocks in each group by depth. (What enn calls 18 has 14 layers.)
THIN = {n: (b,) * 3 for n, b in
        {18: 2, 32: 5, 44: 7, 56: 9, 110: 18}.items()}  # fmt: skip
BOTTLENECK = {
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}


class ResNet(nn.Module):
  """A residual network by its depth.

  50, 101, 152 and 200 are the pre-activation bottleneck networks of ImageNet,
  18, 32, 44, 56 and 110 the thin ones of CIFAR, whose shortcuts have no
  parameters. The last layer starts at zero.

  Attributes:
    classes: number of outputs C.
    depth: one of those above.
    blocks: residual blocks in each group; those of `depth` by default.
    channels: outputs of each group; (256, 512, 1024, 2048) or (16, 32, 64).
    bn_batch: examples that share batch statistics, see `BatchNorm`.
    bn_momentum: of the running batch statistics.
    padding: of convolutions and pooling: `SAME`, as in enn, or `symmetric`, as
      in PyTorch; they differ where the stride is 2.
    preactivation: whether the networks of ImageNet norm and activate before a
      convolution; else after it, as in arXiv:1512.03385 (the stride is that of
      the 3x3 convolution, as in torchvision).
    remat: whether training computes what is inside a block again in the
      backward pass, to save memory.
    dtype: of the computation up to the pooled features; parameters,
      statistics, pooled features and logits are float32.
  """

  classes: int
  depth: int = 50
  blocks: Sequence[int] | None = None
  channels: Sequence[int] | None = None
  bn_batch: int | None = None
  bn_momentum: float = 0.9
  padding: str = 'SAME'
  preactivation: bool = True
  remat: bool = False
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'blocks', 'channels')
    check_share(self, 'bn_momentum')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, ch]` to logits `[B, C]` and features.

    The features are `inputs`, `block_0`, `block_1`, … (the output of each
    block), `pooled` (`[B, F]`, the mean over the image of the last activation)
    and `logits`.
    """
    thin, groups = self._groups()
    if self.padding not in ('SAME', 'symmetric'):
      raise ValueError(
          f"padding of ResNet is {self.padding!r}; set it to 'SAME' or"
          " 'symmetric'"
      )
    symmetric = self.padding == 'symmetric'
    conv = functools.partial(_conv, symmetric=symmetric, dtype=self.dtype)
    norm = functools.partial(
        BatchNorm,
        group=self.bn_batch,
        momentum=self.bn_momentum,
        dtype=self.dtype,
    )
    features = {'inputs': x}
    if thin:
      h = conv(groups[0][1], (3, 3), name='stem')(x)
      h = nn.relu(norm(name='stem_norm')(h, train=train))
    else:
      h = conv(groups[0][1] // 4, (7, 7), strides=2, name='stem')(x)
      if not self.preactivation:
        h = nn.relu(norm(name='stem_norm')(h, train=train))
      padding = ((1, 1), (1, 1)) if symmetric else 'SAME'
      h = nn.max_pool(h, (3, 3), strides=(2, 2), padding=padding)
    bottleneck = Bottleneck if self.preactivation else PostBottleneck
    block, number = ThinBlock if thin else bottleneck, itertools.count()
    if self.remat:
      block = nn.remat(block, static_argnums=(2,))
    for group, (blocks, channels) in enumerate(groups):
      for i in range(blocks):
        name = f'block_{next(number)}'
        stride = 2 if group and i == 0 else 1
        h = block(conv, norm, channels, stride, i == 0, name=name)(h, train)
        features[name] = h
    if self.preactivation and not thin:
      h = nn.relu(norm(name='final_norm')(h, train=train))
    pooled = features['pooled'] = promote_to_float32(h).mean((1, 2))
    logits = features['logits'] = nn.Dense(
        self.classes, kernel_init=nn.initializers.zeros, name='out'
    )(pooled)
    return logits, features

  def _groups(self) -> tuple[bool, list[tuple[int, int]]]:
    """Whether it is a thin one; blocks and channels of each group."""
    thin = self.depth in THIN
    known = THIN | BOTTLENECK
    if self.depth not in known:
      raise ValueError(
          f'depth of ResNet is {self.depth}; set it to'
          f' one of {sorted(known)}'
      )
    first = 16 if thin else 256
    blocks = self.blocks or known[self.depth]
    channels = self.channels or [first * 2**i for i in range(len(blocks))]
    if len(blocks) != len(channels):
      raise ValueError(
          f'ResNet has {len(blocks)} groups by `blocks` and {len(channels)} by'
          ' `channels`; set both to as many'
      )
    return thin, list(zip(blocks, channels))


def _conv(
    channels: int, kernel: tuple[int, int], symmetric: bool, **options: Any
) -> nn.Conv:
  """A convolution without a bias."""
  return nn.Conv(
      channels,
      kernel,
      padding=kernel[0] // 2 if symmetric else 'SAME',
      use_bias=False,
      kernel_init=fan_in_init,
      **options,
  )


class Block(nn.Module):
  """What the blocks below have in common.

  Attributes:
    conv: makes a convolution, `_conv` with its options.
    norm: makes a `BatchNorm`.
    channels: of the output; a quarter of it within a bottleneck.
    stride: of a 3x3 convolution.
    project: whether the shortcut of a bottleneck is a 1x1 convolution.
  """

  conv: Any
  norm: Any
  channels: int
  stride: int
  project: bool


class Bottleneck(Block):
  """The pre-activation block: 1x1, 3x3 and 1x1 convolutions."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width = self.channels // 4
    h = shortcut = nn.relu(self.norm(name='norm_0')(x, train=train))
    h = self.conv(width, (1, 1), name='conv_0')(h)
    h = nn.relu(self.norm(name='norm_1')(h, train=train))
    h = self.conv(width, (3, 3), strides=self.stride, name='conv_1')(h)
    h = nn.relu(self.norm(name='norm_2')(h, train=train))
    h = self.conv(self.channels, (1, 1), name='conv_2')(h)
    if not self.project:
      return h + x
    project = self.conv(
        self.channels, (1, 1), strides=self.stride, name='shortcut'
    )
    return h + project(shortcut)


class PostBottleneck(Block):
  """The same convolutions, each normed and activated after it."""

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    width, stride = self.channels // 4, self.stride
    h = self.conv(width, (1, 1), name='conv_0')(x)
    h = nn.relu(self.norm(name='norm_0')(h, train=train))
    h = self.conv(width, (3, 3), strides=stride, name='conv_1')(h)
    h = nn.relu(self.norm(name='norm_1')(h, train=train))
    h = self.conv(self.channels, (1, 1), name='conv_2')(h)
    h = self.norm(name='norm_2')(h, train=train)
    if self.project:
      x = self.conv(self.channels, (1, 1), strides=stride, name='shortcut')(x)
      x = self.norm(name='shortcut_norm')(x, train=train)
    return nn.relu(h + x)


class ThinBlock(Block):
  """The block of the CIFAR networks: two 3x3 convolutions.

  Its shortcut leaves pixels out where it strides, and fills up the channels
  with zeros: nothing is projected.
  """

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    h = self.conv(self.channels, (3, 3), strides=self.stride, name='conv_0')(x)
    h = nn.relu(self.norm(name='norm_0')(h, train=train))
    h = self.conv(self.channels, (3, 3), name='conv_1')(h)
    h = self.norm(name='norm_1')(h, train=train)
    more = self.channels - x.shape[-1]
    pad = [(0, 0)] * 3 + [(more // 2, more - more // 2)]
    shortcut = jnp.pad(x[:, :: self.stride, :: self.stride], pad)
    return nn.relu(h + shortcut)
