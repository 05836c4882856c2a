"""Checks of what a network is given: its index, and its fields."""

import math

from flax import linen as nn
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


def check_positive(owner: nn.Module, *fields: str) -> None:
  """Raises a ValueError where a field is not a finite number above 0."""
  for field in fields:
    value = getattr(owner, field)
    if not 0 < value < math.inf:
      raise ValueError(
          f'the `{field}` of {type(owner).__name__} is {value}; set it to a'
          ' finite number above 0'
      )


def check_share(owner: nn.Module, field: str) -> None:
  """Raises a ValueError where a field is not from 0 to 1."""
  value = getattr(owner, field)
  if not 0 <= value <= 1:
    raise ValueError(
        f'the `{field}` of {type(owner).__name__} is {value}; set it to a'
        ' number from 0 to 1'
    )
