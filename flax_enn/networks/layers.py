"""Layers that take the epistemic index where it costs least.

The epinet of the paper concatenates z to its input, emits C·D outputs for
every example and contracts them with z. The same function costs a fraction
when z enters the first layer as a bias and the last kernel is contracted with
z BEFORE it meets the examples: then no `[N, B, C, D]` array exists, and the
wide first product is shared by all indices.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import Index, promote_to_float32

# Of a unit by itself, in `flax.linen`.
ACTIVATIONS = (
    'celu', 'elu', 'gelu', 'hard_sigmoid', 'hard_silu', 'hard_swish',
    'hard_tanh', 'leaky_relu', 'log_sigmoid', 'relu', 'relu6', 'selu',
    'sigmoid', 'silu', 'soft_sign', 'softplus', 'swish', 'tanh',
)  # fmt: skip

# Of a computation; None is that of its inputs and parameters, float32.
Dtype = Any


def fan_in_init(
    key: jax.Array, shape: Sequence[int], dtype: Dtype = jnp.float32
) -> jax.Array:
  """Truncated normal of std 1/sqrt(fan in), the initialiser enn was built on.

  Args:
    key: PRNG key.
    shape: of a kernel whose last axis is the output and whose others are the
      fan in (dense `[F, C]`, convolution `[H, W, F, C]`).
    dtype: of the kernel.
  """
  return truncated_init(math.prod(shape[:-1]))(key, shape, dtype)


def truncated_init(fan_in: int) -> nn.initializers.Initializer:
  """What `fan_in_init` draws a kernel of so many inputs from."""
  # Cut at two standard deviations and not rescaled afterwards, as in Haiku.
  return nn.initializers.truncated_normal(1 / math.sqrt(max(fan_in, 1)))


def per_member(
    init: nn.initializers.Initializer,
) -> nn.initializers.Initializer:
  """Initialises K kernels `[K, ...]`, each from a key of its own."""

  def init_all(key: jax.Array, shape: Sequence[int], dtype: Dtype = None):
    keys = jax.random.split(key, shape[0])
    return jax.vmap(lambda k: init(k, shape[1:], dtype))(keys)

  return init_all


class IndexDense(nn.Module):
  """`W h + V z + b`: a dense layer over the concatenation of z and h.

  Attributes:
    size: number of outputs.
    dtype: of the computation; parameters are float32.
    kernel_init: initialiser of W and V, from their common fan in F + D.
    bias_init: initialiser of b.
  """

  size: int
  dtype: Dtype = None
  kernel_init: Callable[[int], nn.initializers.Initializer] = truncated_init
  bias_init: nn.initializers.Initializer = nn.initializers.zeros

  @nn.compact
  def __call__(self, h: jax.Array, index: jax.Array) -> jax.Array:
    """Maps `[B, F]` and `[D]` to `[B, size]`."""
    init = self.kernel_init(h.shape[-1] + index.shape[-1])
    dense = functools.partial(
        nn.Dense, self.size, dtype=self.dtype, kernel_init=init
    )
    of_inputs = dense(name='h', bias_init=self.bias_init)(h)
    return of_inputs + dense(name='z', use_bias=False)(index)


class IndexContract(nn.Module):
  """`(W z) h + b z`: a dense layer whose C·D outputs are contracted with z.

  Attributes:
    size: number of outputs C.
    dtype: of the computation; parameters are float32.
  """

  size: int
  dtype: Dtype = None

  @nn.compact
  def __call__(self, h: jax.Array, index: jax.Array) -> jax.Array:
    """Maps `[B, F]` and `[D]` to `[B, C]`."""
    features, dim = h.shape[-1], index.shape[-1]
    kernel = self.param(
        'kernel', truncated_init(features), (features, self.size, dim)
    )
    bias = self.param('bias', nn.initializers.zeros, (self.size, dim))
    h, index, kernel, bias = nn.dtypes.promote_dtype(
        h, index, kernel, bias, dtype=self.dtype
    )
    # With D in front, the kernels of many indices are one product of matrices
    # and lie as the next product reads them; the transposition is index-free.
    kernel = kernel.transpose(2, 0, 1)
    return h @ jnp.tensordot(index, kernel, 1) + bias @ index


class ProjectedMLP(nn.Module):
  """`mlp([z, h])^T z`: the head of an epinet (paper, equation 6; as in enn).

  Attributes:
    hiddens: widths of the hidden layers.
    classes: number of outputs C.
    concat_index: whether z is also an input of the first layer.
    dtype: of the computation; parameters are float32.
  """

  hiddens: Sequence[int]
  classes: int
  concat_index: bool = True
  dtype: Dtype = None

  @nn.compact
  def __call__(self, h: jax.Array, index: jax.Array) -> jax.Array:
    """Maps features `[B, F]` and an index `[D]` to `[B, C]` float32."""
    for i, size in enumerate(self.hiddens):
      if i == 0 and self.concat_index:
        layer = IndexDense(size, self.dtype, name='layer_0')
        h = layer(h, index)
      else:
        h = nn.Dense(
            size, dtype=self.dtype, kernel_init=fan_in_init, name=f'layer_{i}'
        )(h)
      h = nn.relu(h)
    if not self.hiddens and self.concat_index:
      z = jnp.broadcast_to(index, (h.shape[0], *index.shape))
      h = jnp.concatenate([z, h], axis=-1)
    out = IndexContract(self.classes, self.dtype, name='out')(h, index)
    return promote_to_float32(out)


class BatchNorm(nn.Module):
  """Batch normalisation over the batch, or over groups of so many examples.

  A group is a virtual batch (the "ghost" of Hoffer et al., arXiv:1705.08741):
  with it, a large batch trains as small ones do. It is a number of examples and
  not the share of a device, so that results do not depend on the mesh.

  Attributes:
    group: examples that share their statistics; None or 0 for the whole batch.
    momentum: of the running statistics, which average those of all groups.
    epsilon: added to the variance.
    use_scale: whether the channels have a trained scale.
    dtype: of the result; parameters and statistics are float32.
  """

  group: int | None = None
  momentum: float = 0.9
  epsilon: float = 1e-5
  use_scale: bool = True
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Normalises the channels of `[B, ..., ch]`."""
    size = x.shape[-1:]
    scale = jnp.ones(size)
    if self.use_scale:
      scale = self.param('scale', nn.initializers.ones, size)
    bias = self.param('bias', nn.initializers.zeros, size)
    mean = self.variable('batch_stats', 'mean', jnp.zeros, size)
    var = self.variable('batch_stats', 'var', jnp.ones, size)
    dtype = nn.dtypes.canonicalize_dtype(x, scale, bias, dtype=self.dtype)
    if not train or self.is_initializing():
      factor = scale * jax.lax.rsqrt(var.value + self.epsilon)
      return ((x - mean.value) * factor + bias).astype(dtype)
    groups = self._split(promote_to_float32(x))
    axes = tuple(range(1, groups.ndim - 1))
    means = groups.mean(axes, keepdims=True)
    squares = jnp.square(groups).mean(axes, keepdims=True)
    variances = jnp.maximum(squares - jnp.square(means), 0.0)
    for running, of_groups in ((mean, means), (var, variances)):
      now = of_groups.reshape(-1, *size).mean(0)
      running.value = self.momentum * running.value + (1 - self.momentum) * now
    factor = scale * jax.lax.rsqrt(variances + self.epsilon)
    return ((groups - means) * factor + bias).reshape(x.shape).astype(dtype)

  def _split(self, x: jax.Array) -> jax.Array:
    """`[B, ...]` as `[B / group, group, ...]`."""
    size = self.group or x.shape[0]
    if size < 1 or x.shape[0] % size:
      raise ValueError(
          f'batch norm over groups of {size} examples cannot divide a batch of'
          f' {x.shape[0]}; set `bn_batch` to a divisor of that (of batch_size /'
          ' accumulation in a config), or to 0 for all of it'
      )
    return x.reshape(-1, size, *x.shape[1:])


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
  """The function of that name in `flax.linen`.

  Raises:
    ValueError: there is no activation of that name.
  """
  if name not in ACTIVATIONS:
    raise ValueError(
        f'activation is {name!r}; it is one of {", ".join(ACTIVATIONS)}'
    )
  return getattr(nn, name)


def contract(basis: jax.Array, index: Index) -> jax.Array:
  """Contracts `[B, C, D]` with `[D]`; unchosen entries cannot spread NaN.

  (0 * NaN is NaN: a one-hot index must not see a member that diverged.) Where
  one that the index weighs is not finite, all outputs of the example are NaN.
  """
  # Selecting by the index first would make an [N, B, C, D] array of N indices.
  basis = jnp.moveaxis(basis, -1, 0)  # as in IndexContract
  finite = jnp.isfinite(basis).all(-1, keepdims=True)
  chosen = jnp.tensordot(index, jnp.where(finite, basis, 0), 1)
  broken = jnp.tensordot(jnp.abs(index), (~finite).astype(chosen.dtype), 1)
  return jnp.where(broken > 0, jnp.nan, chosen)
