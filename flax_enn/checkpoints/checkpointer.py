"""The checkpoints of one run: the latest ones and the best one are kept."""

from collections.abc import Mapping
from concurrent import futures
import math
import time
from typing import Any, TypeVar

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np
import orbax.checkpoint as ocp

from flax_enn import agreement, run_folder, storage
from flax_enn.checkpoints import errors, fingerprint, layout, orbax_manager

State = TypeVar('State')


class Checkpointer:
  """Saves and restores the train states of the run in one `workdir`.

  A state is a tree whose leaves are global arrays (or typed PRNG keys). Every
  array is fingerprinted when saved and checked when restored.
  """

  def __init__(
      self, workdir: epath.PathLike, *, keep: int = 2, best: str = 'nll'
  ):
    """Opens the checkpoints of a run; unfinished ones are cleared away.

    Args:
      workdir: the run's folder, a local path or one that `epath` knows (gs://).
      keep: how many of the latest checkpoints stay, beside the best one.
      best: the metric that says which one is best; lower is better.

    Raises:
      ValueError: `keep` is too small, or Orbax would delete a finished
        checkpoint.
      ModuleNotFoundError: the extra `gcs` is not installed, for a bucket.
    """
    if keep < 1:
      raise ValueError(f'keep is {keep}; set it to 1 or more')
    self.directory = layout.checkpoint_dir(workdir)
    self._metric = best
    layout.check_installed(self.directory)
    layout.check_commit_markers(workdir)
    self._scores = layout.scores(workdir)
    self._manager = orbax_manager.create_manager(
        self.directory, keep, self._scores
    )

  def save(self, state: Any, step: int) -> bool:
    """Starts to save a state; returns once it has been copied off the devices.

    Args:
      state: the train state. It may be donated as soon as this returns.
      step: number of training steps it has seen.

    Returns:
      False if this step, or a later one, is there already.

    Raises:
      Exception: whatever stopped the save before this one.
    """
    if step in self._manager.all_steps():
      return False
    self._drop_score(step)
    numbers: futures.Future[Any] = futures.Future()
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(state), meta=fingerprint.Save(numbers)
    )
    try:
      saved = self._manager.save(step, args=items)
      # Started once the state has been copied, or that would wait for it.
      numbers.set_result(fingerprint.start(state))
    finally:
      numbers.cancel()
    return saved

  def score(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records how a saved step was evaluated, which ranks it.

    Args:
      step: that was saved; what is recorded of it already is replaced.
      metrics: evaluation results by name.

    Raises:
      ValueError: the metrics lack the one that ranks checkpoints.
    """
    if self._metric not in metrics:
      raise ValueError(
          f'metrics have no {self._metric!r}, which ranks the checkpoints; they'
          f' have {sorted(metrics)}'
      )
    # JSON has no NaN; a checkpoint without a number is not the best.
    numbers = {
        name: float(m) if math.isfinite(m) else None
        for name, m in metrics.items()
    }
    self._scores[step] = {'score': numbers[self._metric], 'metrics': numbers}
    self._write_scores()

  def scored(self, step: int) -> bool:
    """Whether a step has been evaluated, the same on every process."""
    scored = np.asarray(step in self._scores)
    return bool(multihost_utils.broadcast_one_to_all(scored))

  def restore_latest(self, abstract: State) -> tuple[State, int] | None:
    """Restores the latest state that can be read, bit for bit.

    Damaged checkpoints are passed over with a warning and, once an older one
    has been restored, renamed to `damaged-STEP`, so that the run can save that
    step again. Nothing is deleted. What cannot be read at the moment is tried
    again for a while, and nothing is set aside for it.

    Args:
      abstract: the state as `jax.ShapeDtypeStruct`s with shardings. The mesh
        need not be the one the state was saved from.

    Returns:
      The state and its step; None if the run has no checkpoint.

    Raises:
      DamagedCheckpointError: there are checkpoints and all are damaged.
      StorageError: one cannot be read; it may well be whole.
      ValueError: the checkpoint is of another network or optimizer.
    """
    self.wait()
    damaged: dict[int, Exception | None] = {}
    for step in sorted(self._manager.all_steps(), reverse=True):
      state, error = self._try_restore(step, abstract)
      if state is None:
        damaged[step] = error
        continue
      for bad, error in damaged.items():
        moved = self._quarantine(bad)
        logging.warning(
            'Checkpoint of step %d is damaged: %s. It is now %s; going on from'
            ' step %d, %s.', bad, error, moved, step, self._path(step),
        )
      if damaged:
        self._manager.reload()
      return state, step
    if damaged:
      # All of them are of one run: where none fits, it is the network.
      for error in damaged.values():
        if isinstance(error, errors.MisfitError):
          raise error
      raise errors.DamagedCheckpointError(
          f'all checkpoints in {self.directory} are damaged:'
          + layout.format_list([f'step {s}: {e}' for s, e in damaged.items()])
          + '\nrepair one of them, or choose another --workdir to start anew'
      )
    return None

  def latest_step(self) -> int | None:
    """The latest step that is saved to the end; waits for a save under way."""
    self.wait()
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The saved step of the lowest score, if one has a score; waits."""
    self.wait()
    return layout.best(self._scores, self._manager.all_steps())

  def wait(self) -> None:
    """Waits for a save under way and raises what went wrong in it."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits for a save under way and releases the threads."""
    self._manager.close()

  def _path(self, step: int) -> epath.Path:
    return self.directory / str(step)

  def _drop_score(self, step: int) -> None:
    """Drops the score of a step that is saved anew, or damaged."""
    if self._scores.pop(step, None) is not None:
      self._write_scores()

  def _write_scores(self) -> None:
    run_folder.write_json(self.directory / 'scores.json', self._scores)

  def _try_restore(
      self, step: int, abstract: State
  ) -> tuple[State | None, Exception | None]:
    """The state of a step, or why it cannot be had: damage, or a misfit.

    All processes come to the same answer, and try again together.

    Raises:
      StorageError: it cannot be read.
    """
    for seconds in (*storage.BACK_OFF, None):
      state, error = None, None
      try:
        state = self._restore(step, abstract)
      except (
          errors.StorageError, errors.DamagedCheckpointError, errors.MisfitError
      ) as e:  # fmt: skip
        error = e
      if not agreement.on_any_process(isinstance(error, errors.StorageError)):
        if not agreement.on_any_process(state is None):
          return state, None
        elsewhere = 'it is damaged for another host'
        return None, error or errors.DamagedCheckpointError(elsewhere)
      if seconds is not None:
        logging.warning('%s; trying again in %d s', error, seconds)
        time.sleep(seconds)
    raise errors.StorageError(
        f'{error or "another host cannot read it"}. Nothing was changed: the'
        ' same command goes on from there once storage can be read'
    )

  def _restore(self, step: int, abstract: State) -> State:
    path = self._path(step)
    with errors.sort_errors(path):
      fingerprints = layout.fingerprints(path)
      saved = layout.tree_metadata(path)
    layout.check_fit(path, saved, abstract)
    with errors.sort_errors(path):
      items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
      state = self._manager.restore(step, args=items)['state']
      # Without its record of PRNG keys, Orbax gives them back as plain numbers.
      if _dtypes(state) != _dtypes(abstract):
        raise TypeError('PRNG keys came back as numbers')
    fingerprint.check(path, state, fingerprints)
    return state

  def _quarantine(self, step: int) -> epath.Path:
    """Renames a checkpoint so that Orbax no longer sees it."""
    multihost_utils.sync_global_devices(f'before setting {step} aside')
    moved = self.directory / f'damaged-{step}'
    if jax.process_index() == 0:
      number = 1
      while moved.exists():
        number += 1
        moved = self.directory / f'damaged-{step}-{number}'
      self._path(step).rename(moved)
    multihost_utils.sync_global_devices(f'after setting {step} aside')
    self._drop_score(step)
    return moved


def _dtypes(state: Any) -> list[Any]:
  return [leaf.dtype for leaf in jax.tree.leaves(state)]
