"""Orbax's manager of checkpoints, set to what a run needs."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from flax_enn.checkpoints import layout


@dataclasses.dataclass
class _LatestAndBest:
  """Preserves the `keep` latest checkpoints and the one of the lowest score.

  Orbax's own `BestN` keeps all that were saved without metrics.
  """

  keep: int
  scores: dict[int, Mapping[str, Any]]

  def should_preserve(
      self, checkpoints: Sequence[Any], *, context: Any
  ) -> list[bool]:
    del context
    steps = [checkpoint.step for checkpoint in checkpoints]
    kept = {*steps[-self.keep :], layout.best(self.scores, steps)}
    return [step in kept for step in steps]


class _Manager(ocp.CheckpointManager):
  """Orbax's, without its own question whether the run is preempted.

  It would ask JAX with the number of the step, and `Preemption` asks with its
  own count: JAX would agree on a moment that never comes.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


def create_manager(
    directory: epath.Path, keep: int, scores: dict[int, Mapping[str, Any]]
) -> ocp.CheckpointManager:
  """Opens the checkpoints in a folder; unfinished ones are cleared away.

  Args:
    directory: of the checkpoints.
    keep: how many of the latest stay, beside the best one.
    scores: step -> how it was evaluated, which may be added later.
  """
  return _Manager(
      directory,
      options=ocp.CheckpointManagerOptions(
          preservation_policy=_LatestAndBest(keep, scores),
          cleanup_tmp_directories=True,
          # Orbax keeps the metrics in a file of its own, and one that was
          # truncated would stop it here. They are in `scores.json`.
          lightweight_initialize=True,
      ),
  )
