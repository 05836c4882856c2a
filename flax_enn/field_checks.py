"""Checks of the numbers that a network, a loss or an indexer is made of."""

from collections.abc import Callable
import math
from typing import Any

import jax
import numpy as np


def check_positive(owner: object, *fields: str) -> None:
  """Raises a ValueError where a field is not a finite number above 0.

  Of a field of several numbers each is looked at, of None nothing.
  """
  _check(owner, fields, lambda n: 0 < n < math.inf, 'a finite number above 0')


def check_not_negative(owner: object, *fields: str) -> None:
  """The same for finite numbers of at least 0."""
  expected = 'a finite number, at least 0'
  _check(owner, fields, lambda n: 0 <= n < math.inf, expected)


def check_finite(owner: object, *fields: str) -> None:
  """The same for finite numbers."""
  _check(owner, fields, math.isfinite, 'a finite number')


def check_share(owner: object, *fields: str) -> None:
  """The same for numbers from 0 to 1."""
  _check(owner, fields, lambda n: 0 <= n <= 1, 'a number from 0 to 1')


def _check(
    owner: object,
    fields: tuple[str, ...],
    fits: Callable[[Any], bool],
    expected: str,
) -> None:
  for field in fields:
    value = getattr(owner, field)
    leaves = map(np.ravel, jax.tree.leaves(value))
    if not all(fits(number) for leaf in leaves for number in leaf):
      raise ValueError(
          f'the `{field}` of {type(owner).__name__} is {value}; set it to'
          f' {expected}'
      )
