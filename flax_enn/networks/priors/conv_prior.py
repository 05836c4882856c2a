"""An ensemble of small random convolutional networks as a prior function."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.networks.layers import (
  Dtype,
  at_least_float32,
  fan_in_init,
  per_member,
)


class ConvPrior(nn.Module):
  """`size` random conv nets of the image; the index combines them linearly.

  All of them are one computation: a convolution for each layer, whose outputs
  are those of every network, and one batched dense product. The defaults are
  enn's prior of ImageNet; its prior of CIFAR has channels (4, 8, 4), kernels
  (5, 5, 5), strides (2, 2, 2) and images resized to 32
  (`enn/networks/epinet/priors.py`). Its weights are never trained: an epinet
  runs it inside `Frozen`.

  Attributes:
    classes: number of outputs C.
    size: number of networks, the dimension D of the index.
    channels: outputs of each network's convolutions.
    kernels: side of each kernel.
    strides: of each convolution.
    resize: side that images are resized to first (bilinear, antialiased); None
      leaves them as they are.
    scale: factor on the output.
    dtype: of the computation.
  """

  classes: int
  size: int
  channels: Sequence[int] = (4, 8, 8)
  kernels: Sequence[int] = (10, 10, 3)
  strides: Sequence[int] = (5, 5, 2)
  resize: int | None = None
  scale: float = 1.0
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps images `[B, H, W, ch]` to the basis `[B, C, D]`, float32."""
    layers = (self.channels, self.kernels, self.strides)
    if len({len(values) for values in layers}) > 1 or not self.channels:
      raise ValueError(
          'ConvPrior has'
          f' {len(self.channels)} channels, {len(self.kernels)} kernels and'
          f' {len(self.strides)} strides; set channels, kernels and strides of'
          ' config.network.priors.* to one entry for each convolution'
      )
    if self.resize and x.shape[1:3] != (self.resize, self.resize):
      shape = (x.shape[0], self.resize, self.resize, x.shape[-1])
      x = jax.image.resize(x, shape, 'bilinear')
    h = x
    for i, (channels, kernel, stride) in enumerate(zip(*layers)):
      h = nn.relu(self._conv(h, channels, kernel, stride, i))
    h = jnp.moveaxis(h, 3, 1).reshape(x.shape[0], self.size, -1)
    return self.scale * at_least_float32(self._dense(h))

  def _conv(
      self, h: jax.Array, channels: int, kernel: int, stride: int, i: int
  ) -> jax.Array:
    """Maps `[B, H, W, ch]`, later `[B, H, W, D, ch]`, to the latter."""
    shape = (self.size, kernel, kernel, h.shape[-1], channels)
    weights = self.param(f'kernel_{i}', per_member(fan_in_init), shape)
    bias = self.param(
        f'bias_{i}', nn.initializers.zeros, (self.size, channels)
    )
    h, weights, bias = nn.dtypes.promote_dtype(
        h, weights, bias, dtype=self.dtype
    )
    # Every network reads the same image. After that each reads its own inputs:
    # by a depthwise convolution, summed over them. With the networks as groups,
    # XLA would gather the whole batch on every device (openxla/xla#47945).
    h = h.reshape(*h.shape[:3], -1)
    groups = h.shape[-1] if i else 1
    weights = jnp.moveaxis(weights, 0, 2 if i else 3)
    h = jax.lax.conv_general_dilated(
        h,
        weights.reshape(kernel, kernel, h.shape[-1] // groups, -1),
        (stride, stride),
        'SAME',
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )
    return h.reshape(*h.shape[:3], self.size, -1, channels).sum(-2) + bias

  def _dense(self, h: jax.Array) -> jax.Array:
    """Maps `[B, D, F]` to `[B, C, D]`."""
    shape = (self.size, h.shape[-1], self.classes)
    weights = self.param('kernel_out', per_member(fan_in_init), shape)
    bias = self.param(
        'bias_out', nn.initializers.zeros, (self.size, self.classes)
    )
    h, weights, bias = nn.dtypes.promote_dtype(
        h, weights, bias, dtype=self.dtype
    )
    return jnp.einsum('bdf,dfc->bcd', h, weights) + bias.T
