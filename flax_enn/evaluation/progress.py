"""How far a long evaluation has come, on disk and in the log."""

from collections.abc import Mapping
import io
import json
import time
from typing import Any, TypeVar

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from flax_enn.evaluation.results import write_file

Totals = TypeVar('Totals')

_SECONDS_BETWEEN_LOGS = 10


class Progress:
  """What an evaluation has summed so far, kept in a file now and then.

  The totals of an evaluation have a fixed size, whatever it runs over; so a
  process that was killed has lost a minute of it, and the next one ends with
  the same bits.
  """

  def __init__(
      self,
      path: epath.PathLike,
      identity: Mapping[str, Any],
      every: float = 60.0,
  ):
    """Reads the file, if there is one of the same evaluation.

    Args:
      path: of the file; it is removed when the evaluation is done.
      identity: all that decides the numbers, as JSON types. What another
        evaluation has left is passed over and overwritten.
      every: seconds between two writes.
    """
    self._path = epath.Path(path)
    self._identity = json.loads(json.dumps(identity))
    self._every = every
    self._written = time.monotonic()
    self.done, self._leaves = self._read()
    if jax.process_count() > 1:
      multihost_utils.assert_equal(
          np.int32(self.done), f'hosts do not see the same {self._path}'
      )

  def restore(self, like: Totals) -> Totals | None:
    """The totals after the first `done` batches; None after none.

    Args:
      like: the tree of totals, whose leaves may be abstract.
    """
    if not self.done:
      return None
    leaves, tree = jax.tree.flatten(like)
    shapes = [(leaf.shape, leaf.dtype) for leaf in leaves]
    if shapes != [(leaf.shape, leaf.dtype) for leaf in self._leaves]:
      raise ValueError(
          f'{self._path} does not hold the totals of this evaluation; remove it'
      )
    logging.info('Going on after %d batches, from %s', self.done, self._path)
    return jax.tree.unflatten(tree, self._leaves)

  def keep(self, done: int, totals: Any) -> None:
    """Writes the totals after `done` batches, if it is time to.

    Only the first process does; it waits for the totals then.
    """
    if jax.process_index() or time.monotonic() - self._written < self._every:
      return
    file = io.BytesIO()
    leaves = jax.device_get(jax.tree.leaves(totals))
    np.savez(
        file, *leaves, identity=json.dumps(self._identity), done=np.int32(done)
    )
    write_file(self._path, file.getvalue())
    self._written = time.monotonic()

  def remove(self) -> None:
    """Removes the file: the evaluation is done."""
    if jax.process_index() == 0:
      self._path.unlink(missing_ok=True)

  def _read(self) -> tuple[int, list[np.ndarray]]:
    if not self._path.exists():
      return 0, []
    try:
      with self._path.open('rb') as f, np.load(f) as archive:
        arrays = dict(archive)
      identity = json.loads(str(arrays['identity']))
      done = int(arrays['done'])
      leaves = [arrays[f'arr_{i}'] for i in range(len(arrays) - 2)]
    except Exception as e:  # numpy, zipfile and json each have their own
      logging.warning('%s cannot be read and is not used: %s', self._path, e)
      return 0, []
    if identity != self._identity:
      logging.info('%s is of another evaluation and not used', self._path)
      return 0, []
    return done, leaves


class Log:
  """Says how many batches are done and how long the rest will take."""

  def __init__(self, done: int, total: int | None):
    """Starts the clock.

    Args:
      done: batches that were done before, and do not count for the rate.
      total: all batches, if that is known.
    """
    self._first, self._total = done, total
    self._start = self._said = time.monotonic()

  def __call__(self, done: int) -> None:
    """Logs a line, if it is time to."""
    now = time.monotonic()
    if now - self._said < _SECONDS_BETWEEN_LOGS:
      return
    self._said = now
    rate = (done - self._first) / (now - self._start)
    if self._total is None:
      logging.info('Evaluated %d batches, %.3g batches/s', done, rate)
    else:
      left = duration((self._total - done) / rate)
      logging.info(
          'Evaluated %d of %d batches (%.1f %%), %.3g batches/s, ETA: %s',
          *(done, self._total, 100 * done / self._total, rate, left),
      )


def duration(seconds: float) -> str:
  """`3 h 07 min`, `2 min 05 s` or `8 s`."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02} min'
  return f'{minutes} min {seconds:02} s' if minutes else f'{seconds} s'
