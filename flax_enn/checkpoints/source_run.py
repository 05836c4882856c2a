"""The run that a new one starts from, and which of its checkpoints."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from flax_enn.checkpoints import layout


def checkpoint(init: Mapping[str, Any], workdir: epath.PathLike) -> epath.Path:
  """The folder of the checkpoint that `config.init` names.

  Args:
    init: `config.init`, with a `workdir`.
    workdir: the new run's own folder.

  Raises:
    ValueError: there is no such run or checkpoint.
  """
  source = layout.absolute(init['workdir'], base=workdir)
  found = f'workdir is {init["workdir"]!r}, which is {source}:'
  steps = layout.steps(source)
  if not steps:
    problem = 'no checkpoint there' if source.exists() else 'no such folder'
    raise ValueError(
        f'{found} {problem}. Train that run first (train.py'
        f' --workdir={source}), then this one; or set workdir to a'
        f' run with checkpoints (in {source.parent}: {_runs(source.parent)})'
    )
  step = _step(init.get('step', 'latest'), steps, source)
  if step not in steps:
    raise ValueError(
        f'step is {init["step"]!r}, but the checkpoints in {source}'
        f" are of the steps {steps}; choose one of them, 'latest' or 'best'"
    )
  return layout.checkpoint_dir(source) / str(step)


def _step(
    wanted: int | str, steps: list[int], source: epath.Path
) -> int | None:
  if wanted == 'latest':
    return steps[-1]
  if wanted == 'best':
    return _best(steps, source)
  # A number from the command line comes as text where the config had text.
  return int(wanted) if str(wanted).isdecimal() else None


def _best(steps: list[int], source: epath.Path) -> int:
  best = layout.best(layout.scores(source), steps)
  if best is None:
    raise ValueError(
        f"step is 'best', but no checkpoint in {source} was evaluated;"
        f" choose 'latest' or one of {steps}"
    )
  return best


def _runs(parent: epath.Path) -> list[str]:
  """The runs in a folder that have checkpoints."""
  if not parent.exists():
    return []
  return sorted(run.name for run in parent.iterdir() if layout.steps(run))
