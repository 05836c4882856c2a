"""Checks of the index that a network is given."""

import jax
import jax.numpy as jnp

from flax_enn.core import Index


def check_index(index: jax.Array, shape: tuple[int, ...], owner: str) -> None:
  """Raises a ValueError where an index has the wrong shape."""
  if index.shape != shape:
    raise ValueError(
        f'{owner} got an index of shape {index.shape}, expected {shape}: a'
        ' network takes ONE index; draw it with network.indexer.sample(key, n)'
        ' and map many with flax_enn.over_index'
    )


def check_vector(index: Index, owner: str) -> None:
  """Raises a ValueError where an index is not a vector `[D]` of numbers."""
  if index.ndim != 1 or not jnp.issubdtype(index.dtype, jnp.floating):
    raise ValueError(
        f'{owner} reads an index [D] of numbers, but that of this network is'
        f' {index.dtype}{list(index.shape)}; take a prior that does not name'
        ' `index`, or a network whose index is a vector'
    )
