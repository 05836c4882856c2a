"""Batches on their way to the devices before they are asked for."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from flax_enn import waiting

T = TypeVar('T')


def prefetch(
    batches: Iterable[Any], put: Callable[[Any], T], depth: int = 2
) -> Iterator[T]:
  """Starts the transfer of batches before they are asked for.

  Args:
    batches: on the host.
    put: starts the transfer of one and returns what will hold it, without
      waiting, such as `sharding.make_global_batch`.
    depth: batches in flight while one is worked on.

  Yields:
    What `put` returned, in order.
  """
  flight = collections.deque()
  for batch in waiting.watched(batches):
    flight.append(put(batch))
    if len(flight) > depth:
      yield flight.popleft()
  yield from flight
