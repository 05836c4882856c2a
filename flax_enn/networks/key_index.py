"""Networks whose index is a PRNG key: what each of their layers draws."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def draw(
    index: Any, number: int, sample: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Draw `number` of a network at one index.

  The key is folded with the number first: given to two layers of equal width as
  it is, it would draw the same for both.

  Args:
    index: a typed key `[]`; or a list of the draws themselves, by number, such
      as those that were recorded from another library.
    number: of the draw, from 0 on.
    sample: from a key to the draw.

  Raises:
    ValueError: the index is neither.
  """
  if isinstance(index, (list, tuple)):
    return jnp.asarray(index[number])
  index = jnp.asarray(index)
  if index.shape or not jnp.issubdtype(index.dtype, jax.dtypes.prng_key):
    raise ValueError(
        f'the index is {index.dtype}{list(index.shape)}, expected ONE typed key'
        ' []: draw it with network.indexer.sample(key, n) and map many with'
        ' flax_enn.over_index'
    )
  return sample(jax.random.fold_in(index, number))
