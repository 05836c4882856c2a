"""A limit on how far the host runs ahead of its devices."""

import collections
from typing import Any

import jax


class Throttle:
  """Waits for the oldest of the results that are being computed.

  Steps are dispatched before the ones before them are done; without a limit
  the host would queue up a whole data set of batches.
  """

  def __init__(self, limit: int = 2):
    """Allows `limit` results to be under way."""
    self._limit = limit
    self._under_way = collections.deque()

  def __call__(self, result: Any) -> None:
    """Adds a result, and waits until no more than `limit` are under way."""
    self._under_way.append(result)
    if len(self._under_way) > self._limit:
      jax.block_until_ready(self._under_way.popleft())
