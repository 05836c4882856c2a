"""Which checkpoint of a run is read, and the run that a new one starts from."""

from collections.abc import Mapping, Sequence
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
  step = choose_step(source, steps, init.get('step', 'latest'))
  return layout.checkpoint_dir(source) / str(step)


def choose_step(
    run: epath.Path,
    steps: Sequence[int],
    wanted: int | str,
    *,
    latest_if_unscored: bool = False,
) -> int:
  """The step of one of the checkpoints of a run.

  Args:
    run: its workdir.
    steps: of its checkpoints, from `layout.steps`; there are some.
    wanted: a number, which the command line may give as text, `'latest'` or
      `'best'`.
    latest_if_unscored: whether 'best' means the latest where none was
      evaluated.

  Raises:
    ValueError: there is no such checkpoint.
  """
  step = str(steps[-1] if wanted == 'latest' else wanted)
  if wanted == 'best':
    best = layout.best(layout.scores(run), steps)
    if best is None and not latest_if_unscored:
      raise ValueError(
          f"step is 'best', but no checkpoint in {run} was evaluated; choose"
          f" 'latest' or one of {steps}"
      )
    step = str(steps[-1] if best is None else best)
  if not step.isdecimal() or int(step) not in steps:
    raise ValueError(
        f'step is {wanted!r}; {run} has the steps {steps}: choose one of them,'
        " 'latest' or 'best'"
    )
  return int(step)


def _runs(parent: epath.Path) -> list[str]:
  """The runs in a folder that have checkpoints."""
  if not parent.exists():
    return []
  return sorted(run.name for run in parent.iterdir() if layout.steps(run))
