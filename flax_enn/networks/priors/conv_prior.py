"""An ensemble of small random convolutional networks as a prior function."""

from collections.abc import Sequence
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import check_finite, check_positive
from flax_enn.networks.layers import Dtype, fan_in_init, per_member


def grouped_conv(h: jax.Array, weights: jax.Array, *, stride: int) -> jax.Array:
  """Convolves with the kernels of D networks; the channels of each are a group.

  Args:
    h: `[B, H, W, D, ch]` inputs, or `[B, H, W, 1, ch]` for all networks alike.
    weights: `[D, side, side, ch, channels]` kernels.
    stride: of rows and columns.

  Returns:
    `[B, H', W', D, channels]` outputs.
  """
  networks, *_, channels = weights.shape
  out = _convolve(h, jnp.moveaxis(weights, 0, 3), stride, groups=h.shape[3])
  return out.reshape(*out.shape[:3], networks, channels)


def depthwise_conv(
    h: jax.Array, weights: jax.Array, *, stride: int
) -> jax.Array:
  """The same function: every channel is a group, and their outputs are summed.

  Where a group has several channels, XLA gathers the batch on every device
  (openxla/xla#47945). XLA for TPUs does not, but makes depthwise convolutions
  dense ones of all channels.
  """
  networks, *_, ch, channels = weights.shape
  out = _convolve(h, jnp.moveaxis(weights, 0, 2), stride, groups=networks * ch)
  return out.reshape(*out.shape[:3], networks, ch, channels).sum(-2)


def _convolve(
    h: jax.Array, weights: jax.Array, stride: int, groups: int
) -> jax.Array:
  h = h.reshape(*h.shape[:3], -1)
  return jax.lax.conv_general_dilated(
      h,
      weights.reshape(*weights.shape[:2], h.shape[-1] // groups, -1),
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      feature_group_count=groups,
  )


class ConvPrior(nn.Module):
  """`size` random conv nets of the image; the index combines them linearly.

  All of them are one computation: a convolution for each layer, whose outputs
  are those of every network, and one batched dense product. The defaults are
  enn's prior of ImageNet; its prior of CIFAR has channels (4, 8, 4), kernels
  (5, 5, 5), strides (2, 2, 2) and images resized to 32
  (`enn/networks/epinet/priors.py`). Its weights are never trained:
  `WithPrior` runs it inside `Frozen`.

  Attributes:
    channels: outputs of each network's convolutions.
    kernels: side of each kernel.
    strides: of each convolution.
    resize: side that images are resized to first (bilinear, antialiased); None
      leaves them as they are.
    scale: factor on the output.
    dtype: of the computation.
  """

  channels: Sequence[int] = (4, 8, 8)
  kernels: Sequence[int] = (10, 10, 3)
  strides: Sequence[int] = (5, 5, 2)
  resize: int | None = None
  scale: float = 1.0
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'channels', 'kernels', 'strides', 'resize')
    check_finite(self, 'scale')

  @nn.compact
  def __call__(self, x: jax.Array, classes: int, size: int) -> jax.Array:
    """Maps images `[B, H, W, ch]` to the basis `[B, C, D]`, float32."""
    layers = (self.channels, self.kernels, self.strides)
    if len({len(values) for values in layers}) > 1 or not self.channels:
      raise ValueError(
          'ConvPrior has'
          f' {len(self.channels)} channels, {len(self.kernels)} kernels and'
          f' {len(self.strides)} strides; set channels, kernels and strides to'
          ' one entry for each convolution'
      )
    if self.resize and x.shape[1:3] != (self.resize, self.resize):
      shape = (x.shape[0], self.resize, self.resize, x.shape[-1])
      x = jax.image.resize(x, shape, 'bilinear')
    h = x
    for i, (channels, kernel, stride) in enumerate(zip(*layers)):
      h = nn.relu(self._conv(h, size, channels, kernel, stride, i))
    h = jnp.moveaxis(h, 3, 1).reshape(x.shape[0], size, -1)
    return self.scale * promote_to_float32(self._dense(h, classes))

  def _conv(
      self,
      h: jax.Array,
      size: int,
      channels: int,
      kernel: int,
      stride: int,
      i: int,
  ) -> jax.Array:
    """Maps `[B, H, W, ch]`, later `[B, H, W, D, ch]`, to the latter."""
    shape = (size, kernel, kernel, h.shape[-1], channels)
    weights = self.param(f'kernel_{i}', per_member(fan_in_init), shape)
    bias = self.param(f'bias_{i}', nn.initializers.zeros, (size, channels))
    h, weights, bias = nn.dtypes.promote_dtype(
        h, weights, bias, dtype=self.dtype
    )
    if i == 0:  # Every network reads the same image.
      return grouped_conv(h[:, :, :, None], weights, stride=stride) + bias
    h = jax.lax.platform_dependent(
        h,
        weights,
        tpu=functools.partial(grouped_conv, stride=stride),
        default=functools.partial(depthwise_conv, stride=stride),
    )
    return h + bias

  def _dense(self, h: jax.Array, classes: int) -> jax.Array:
    """Maps `[B, D, F]` to `[B, C, D]`."""
    size = h.shape[1]
    shape = (size, h.shape[-1], classes)
    weights = self.param('kernel_out', per_member(fan_in_init), shape)
    bias = self.param('bias_out', nn.initializers.zeros, (size, classes))
    h, weights, bias = nn.dtypes.promote_dtype(
        h, weights, bias, dtype=self.dtype
    )
    return jnp.einsum('bdf,dfc->bcd', h, weights) + bias.T
