"""An ensemble of random perceptrons of the input as a prior function."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import check_finite, check_positive
from flax_enn.networks.layers import Dtype, fan_in_init, per_member


class MLPPrior(nn.Module):
  """`size` random perceptrons; the index combines them linearly.

  Gives a network prior variability in its input, which a prior of a base's
  features alone loses where those features saturate (enn:
  `enn/networks/einsum_mlp.py`). Its weights are never trained: `WithPrior`
  runs it inside `Frozen`.

  Attributes:
    hiddens: widths of each perceptron's hidden layers.
    pool: (window, stride) by which images `[B, H, W, ch]` are averaged first;
      enn's `make_imagenet_mlp_prior` has (10, 5). None leaves x as it is.
    scale: factor on the output.
    dtype: of the computation.
  """

  hiddens: Sequence[int]
  pool: tuple[int, int] | None = None
  scale: float = 1.0
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens', 'pool')
    check_finite(self, 'scale')

  @nn.compact
  def __call__(self, x: jax.Array, classes: int, size: int) -> jax.Array:
    """Maps `[B, ...]` to the basis `[B, C, D]`, float32."""
    if self.pool is not None:
      window, stride = self.pool
      if x.ndim != 4 or min(x.shape[1:3]) < window:
        raise ValueError(
            f'MLPPrior got x of shape {x.shape}, expected images [B, H, W, ch]'
            f' at least as large as its pooling window {window}; set'
            ' `pool` to (window, stride), or to None'
        )
      x = nn.avg_pool(x, (window, window), strides=(stride, stride))
    h = x.reshape(x.shape[0], 1, -1)
    for i, width in enumerate((*self.hiddens, classes)):
      if i:
        h = nn.relu(h)
      h = self._dense(width, size, i, h)
    return self.scale * promote_to_float32(h.swapaxes(1, 2))

  def _dense(
      self, width: int, size: int, i: int, h: jax.Array
  ) -> jax.Array:
    """Maps `[B, D or 1, F]` to `[B, D, width]`, one kernel per perceptron."""
    fan_in = h.shape[-1]
    bias_init = nn.initializers.zeros
    if i == 0:  # so that the perceptrons differ in where their units switch
      bias_init = nn.initializers.truncated_normal(fan_in**-0.5)
    kernel = self.param(
        f'kernel_{i}', per_member(fan_in_init), (size, fan_in, width)
    )
    bias = self.param(f'bias_{i}', bias_init, (size, width))
    h, kernel, bias = nn.dtypes.promote_dtype(
        h, kernel, bias, dtype=self.dtype
    )
    if h.shape[1] == 1:
      return jnp.einsum('bf,dfw->bdw', h[:, 0], kernel) + bias
    return jnp.einsum('bdf,dfw->bdw', h, kernel) + bias
