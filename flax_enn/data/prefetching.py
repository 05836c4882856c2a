"""Batches on their way to the devices before they are asked for."""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from absl import logging

from flax_enn import waiting

T = TypeVar('T')


class BatchesThenBlanks(Iterator[T]):
  """Batches, and after an error blank ones without end.

  One host cannot stop alone: the others are in a step for which its part of the
  batch would never come. A step with a blank part changes nothing, so that all
  still have the state before it when they next look.

  Attributes:
    error: what went wrong, once it has.
  """

  error: Exception | None = None

  def __init__(self, batches: Iterable[T], blank: Callable[[], T]):
    """Takes batches; an error in the first is raised: nothing is done yet."""
    self._batches, self._blank, self._begun = iter(batches), blank, False

  def __next__(self) -> T:
    if self.error is not None:
      return self._blank()
    try:
      batch = next(self._batches)
    except (ValueError, OSError) as e:
      if not self._begun:
        raise
      logging.error('%s. What was trained is saved, then the run ends', e)
      self.error = e
      return self._blank()
    self._begun = True
    return batch


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
    What `put` returned, in order; an error comes after those before it.
  """
  flight, error = collections.deque(), None
  try:
    for batch in waiting.watched(batches):
      flight.append(put(batch))
      if len(flight) > depth:
        yield flight.popleft()
  except Exception as e:  # of any reader
    error = e
  yield from flight
  if error is not None:
    raise error
