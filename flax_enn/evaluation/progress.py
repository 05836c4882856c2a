"""How far a long evaluation has come, on disk and in the log."""

from collections.abc import Callable, Mapping
import io
import json
import time
from typing import Any, TypeVar

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from flax_enn.files import write_file

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
      stop: Callable[[], bool] = lambda: False,
  ):
    """Reads the file, if there is one of the same evaluation.

    Args:
      path: of the file; it is removed when the evaluation is done.
      identity: all that decides the numbers, as JSON types. What another
        evaluation has left is passed over and overwritten.
      every: seconds between two writes.
      stop: asked before each batch, equally often on every host; once it says
        yes, all that was summed is written and the evaluation is cut off.
    """
    self._path = epath.Path(path)
    self._identity = json.loads(json.dumps(identity))
    self._every = every
    self._stop = stop
    self._written = time.monotonic()
    done, self._leaves = self._read() if _is_first() else (0, [])
    # What the first process found is what all go on from.
    self.done = int(multihost_utils.broadcast_one_to_all(np.int32(done)))

  def restore(self, like: Totals) -> Totals | None:
    """The totals after the first `done` batches; None after none.

    Args:
      like: the tree of totals, whose leaves may be abstract.
    """
    if not self.done:
      return None
    expected, tree = jax.tree.flatten(like)
    leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in expected]
    if _is_first():
      if list(map(_form, leaves)) != list(map(_form, self._leaves)):
        raise ValueError(
            f'{self._path} does not hold the totals of this evaluation; remove'
            ' it'
        )
      leaves = self._leaves
    logging.info('Going on after %d batches, from %s', self.done, self._path)
    return jax.tree.unflatten(
        tree, multihost_utils.broadcast_one_to_all(leaves)
    )

  def keep(self, done: int, totals: Any) -> None:
    """Writes the totals after `done` batches, if it is time to.

    Only the first process does; it waits for the totals then.

    Raises:
      InterruptedError: the evaluation is to be cut off; the totals are written.
    """
    stop = self._stop()
    due = stop or time.monotonic() - self._written >= self._every
    if due and _is_first():
      file, identity = io.BytesIO(), json.dumps(self._identity)
      leaves = jax.device_get(jax.tree.leaves(totals))
      np.savez(file, *leaves, identity=identity, done=np.int32(done))
      write_file(self._path, file.getvalue())
      self._written = time.monotonic()
    if stop:
      raise InterruptedError(f'{done} batches are kept in {self._path}')

  def remove(self) -> None:
    """Removes the file: the evaluation is done."""
    if _is_first():
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


def _is_first() -> bool:
  return jax.process_index() == 0


def _form(leaf: np.ndarray) -> tuple[tuple[int, ...], np.dtype[Any]]:
  return leaf.shape, leaf.dtype


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
