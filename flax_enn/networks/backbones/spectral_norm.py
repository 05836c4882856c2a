"""A base whose layers cannot stretch distances by much."""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.field_checks import check_positive


class SpectralNorm(nn.Module):
  """A backbone with every kernel W divided by `max(1, |W| / bound)`.

  |W| is the largest singular value, of a convolution's kernel that of the
  matrix `[H·W·F, C]`, found by power iterations from the same vector every
  time: nothing has to be kept from step to step. With residual connections the
  features then keep the distances between inputs (Miyato et al.,
  arXiv:1802.05957; Liu et al., arXiv:2006.10108, section 3.1).

  Attributes:
    net: a backbone, `(x, *, train) -> (logits [B, C], features)`, whose kernels
      are trained; of one that is not, put this inside `Frozen`.
    bound: of the singular values.
    iterations: of the power method.
  """

  net: nn.Module
  bound: float = 0.95
  iterations: int = 10

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'bound', 'iterations')

  @nn.compact
  def __call__(self, x: Any, *, train: bool = False) -> Any:
    """Logits and features of the backbone.

    Raises:
      ValueError: kernels are not among its parameters, but frozen.
    """
    # As it is initialised, kernels are read before they are there.
    normed = nn.map_variables(
        lambda net, x: net(x, train=train),
        'params',
        trans_in_fn=self._normed,
        init=self.is_initializing(),
        mutable=self.is_initializing(),
    )
    found = normed(self.net, x)
    trained, frozen = map(self._kernels, ('params', 'frozen'))
    if frozen or not trained:
      raise ValueError(
          f'SpectralNorm found {trained} kernels in the parameters of'
          f' {type(self.net).__name__} and {frozen} that are frozen, which it'
          ' does not reach; put it inside: Frozen(SpectralNorm(net))'
      )
    return found

  def _kernels(self, collection: str) -> int:
    leaves = jax.tree.leaves_with_path(
        nn.unbox(self.variables.get(collection, {}))
    )
    return sum(path[-1].key == 'kernel' for path, _ in leaves)

  def _normed(self, params: Any) -> Any:
    def normed(path: Any, leaf: Any) -> Any:
      if path[-1].key != 'kernel':
        return leaf
      norm = largest_singular_value(
          leaf.reshape(-1, leaf.shape[-1]), self.iterations
      )
      return leaf / jnp.maximum(1, norm / self.bound)

    return jax.tree_util.tree_map_with_path(normed, params)


def largest_singular_value(matrix: jax.Array, iterations: int) -> jax.Array:
  """By power iterations, `[]`; a little less where they are few.

  Its gradient is that at the vectors that were found.

  Args:
    matrix: `[F, C]`.
    iterations: from a vector of pseudo-random numbers.
  """
  left, right = matrix.shape
  fixed = jax.lax.stop_gradient(matrix)
  v = jnp.sin(1 + jnp.arange(right, dtype=matrix.dtype) ** 2)
  tiny = math.sqrt(jnp.finfo(matrix.dtype).tiny)
  u = jnp.zeros(left, matrix.dtype)
  for _ in range(iterations):
    u = fixed @ v
    u /= jnp.maximum(jnp.linalg.norm(u), tiny)
    v = u @ fixed
    v /= jnp.maximum(jnp.linalg.norm(v), tiny)
  return (u[:, None] * matrix * v).sum()
