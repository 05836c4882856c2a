"""What a long evaluation has summed so far, on disk."""

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

from flax_enn.run_folder import atomic_write
from flax_enn.storage import read_bytes

State = TypeVar('State')


class Preempted(Exception):
  """The run was asked to stop, and what it has done is saved."""


class EvalCheckpoint:
  """The state of an evaluation, kept in a file now and then.

  The state has a fixed size, whatever it runs over; so a process that was
  killed has lost a minute of it, and the next one ends with the same bits.

  Attributes:
    num_batches: how many batches are in the file that was found.
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
      path: of the file.
      identity: all that decides the numbers, as JSON types. What another
        evaluation has left is passed over and overwritten.
      every: seconds between two writes.
      stop: asked after each batch, equally often on every process; once it
        returns True, the state is written and the evaluation is cut off.
    """
    self._path = epath.Path(path)
    self._identity = json.loads(json.dumps(identity))
    self._every = every
    self._stop = stop
    self._written = time.monotonic()
    done, self._leaves = self._read() if _is_first() else (0, [])
    # What the first process found is what all go on from.
    self.num_batches = int(multihost_utils.broadcast_one_to_all(np.int32(done)))

  def restore(self, like: State) -> State:
    """The state after the first `num_batches`.

    Args:
      like: the tree of the state, whose leaves may be abstract.

    Raises:
      ValueError: the file holds another state.
    """
    expected, tree = jax.tree.flatten(like)
    leaves = [np.zeros(leaf.shape, leaf.dtype) for leaf in expected]
    if _is_first():
      if list(map(_spec, leaves)) != list(map(_spec, self._leaves)):
        raise ValueError(
            f'{self._path} does not hold the state of this evaluation; remove'
            ' it'
        )
      leaves = self._leaves
    logging.info(
        'Going on after %d batches, from %s', self.num_batches, self._path
    )
    return jax.tree.unflatten(
        tree, multihost_utils.broadcast_one_to_all(leaves)
    )

  def maybe_save(self, done: int, state: Any) -> None:
    """Writes the state after `done` batches, if it is time to.

    Raises:
      Preempted: the evaluation is to be cut off; the state is written.
    """
    stop = self._stop()
    if stop or time.monotonic() - self._written >= self._every:
      self.save(done, state)
    if stop:
      raise Preempted(
          f'Asked to stop; {done} batches of an evaluation are kept in'
          f' {self._path}'
      )

  def raise_if_stopped(self) -> None:
    """Raises Preempted where the run was asked to stop; nothing is kept."""
    if self._stop():
      raise Preempted('Asked to stop; a study begins anew')

  def save(self, done: int, state: Any) -> None:
    """Writes the state, from the first process, which waits for it."""
    if not _is_first() or done == self.num_batches:
      return
    file, identity = io.BytesIO(), json.dumps(self._identity)
    leaves = jax.device_get(jax.tree.leaves(state))
    np.savez(file, *leaves, identity=identity, done=np.int32(done))
    atomic_write(self._path, file.getvalue())
    self._written = time.monotonic()

  def delete(self) -> None:
    """Removes the file: the results are safe."""
    if _is_first():
      self._path.unlink(missing_ok=True)

  def _read(self) -> tuple[int, list[np.ndarray]]:
    if not self._path.exists():
      return 0, []
    try:
      with np.load(io.BytesIO(read_bytes(self._path))) as archive:
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


def _spec(leaf: np.ndarray) -> tuple[tuple[int, ...], np.dtype[Any]]:
  return leaf.shape, leaf.dtype
