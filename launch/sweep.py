"""Runs a config once for every entry of its `sweep()`, and shows what came out.

  python launch/sweep.py --config=configs/two_moons_epinet.py \
    --workdir=runs/two_moons_sweep

A config file may define `sweep()`, a list of overrides (see
`flax_enn/training/sweeps.py`). Every run has a folder in --workdir, named by
what differs. Finished ones are skipped and broken ones go on, so that the same
command may be given again and again. It leaves `sweep.csv`, all results, and
`sweep.png`, the metric against what was swept.
"""

from collections.abc import Callable, Sequence
from concurrent import futures
import csv
import importlib.util
import json
from pathlib import Path
import shlex
import subprocess
import sys
import time
from typing import Any

from absl import app, flags, logging
from etils import epath

# The repository, as train.py has it.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_CONFIG = flags.DEFINE_string(
    'config',
    None,
    'Config file with a sweep(): configs/NAME.py[:VARIANT].',
    required=True,
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of all the runs.', required=True
)
_PARALLEL = flags.DEFINE_integer(
    'parallel', 1, 'How many runs at a time.', lower_bound=1
)
_METRIC = flags.DEFINE_string('metric', 'joint_nll', 'What the plot shows.')
_PRINT = flags.DEFINE_bool(
    'print', False, 'Print the command of every run that is not finished.'
)
_SLURM = flags.DEFINE_bool(
    'slurm', False, 'Submit them as one Slurm array, --parallel at a time.'
)

# Override, workdir, command.
Run = tuple[dict[str, Any], epath.Path, list[str]]


def read(path: str) -> tuple[Callable[[str], Any], Callable[[], list[Any]]]:
  """`get_config` and `sweep` of a config file.

  Raises:
    ValueError: there is no such file, or it has no `sweep()`.
  """
  file = Path(path)
  if not file.is_file():
    raise ValueError(f'--config={path}: there is no such file')
  spec = importlib.util.spec_from_file_location(f'configs.{file.stem}', file)
  if spec is None or spec.loader is None:
    raise ValueError(f'--config={path} is no Python file')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'sweep'):
    raise ValueError(
        f'--config={path} defines no sweep(): a function that returns a list of'
        ' overrides, such as [{"seed": 0}, {"seed": 1}]'
    )
  return module.get_config, module.sweep


def runs_of(config: str, workdir: epath.Path) -> list[Run]:
  """All runs of a sweep, checked before any of them starts.

  Raises:
    ValueError: an override does not fit the config, two of them are the same,
      or a folder holds a run of another config.
  """
  from flax_enn.training import config as config_lib
  from flax_enn.training import sweeps

  path, _, variant = config.partition(':')
  get_config, sweep = read(path)
  runs, names = [], set()
  for override in sweep():
    changed = sweeps.apply(get_config(variant), override)
    config_lib.check(changed)
    name = sweeps.name(override)
    if name in names:
      raise ValueError(f'sweep() of {path} has {override} twice')
    names.add(name)
    config_lib.check_workdir(changed, workdir / name)
    command = [
        sys.executable,
        str(ROOT / 'train.py'),
        f'--config={config}',
        f'--workdir={workdir / name}',
        *(f'--config.{field}={value}' for field, value in override.items()),
    ]
    runs.append((override, workdir / name, command))
  return runs


def finished(run: Run) -> bool:
  """Whether a run has its results."""
  return (run[1] / 'results.json').exists()


def train(run: Run) -> bool:
  """Runs a command, its output in `train.log` beside its results."""
  _, workdir, command = run
  workdir.mkdir(parents=True, exist_ok=True)
  with (workdir / 'train.log').open('a') as log:
    subprocess.run(command, stdout=log, stderr=log, check=False)
  return finished(run)


def train_all(runs: Sequence[Run], parallel: int) -> list[Run]:
  """Trains some at a time and says how far it is; those that failed."""
  failed, start = [], time.monotonic()
  with futures.ThreadPoolExecutor(parallel) as pool:
    waiting = {pool.submit(train, run): run for run in runs}
    for done, future in enumerate(futures.as_completed(waiting), 1):
      run = waiting[future]
      ok = future.result()
      if not ok:
        failed.append(run)
      left = (time.monotonic() - start) / done * (len(runs) - done)
      logging.info(
          '%s %s; %d of %d done, ETA: %.0f s',
          *('Finished' if ok else 'FAILED', run[1].name),
          *(done, len(runs), left),
      )
  return failed


def submit(runs: Sequence[Run], workdir: epath.Path, parallel: int) -> None:
  """Submits one Slurm array of all commands."""
  commands = workdir / 'commands.txt'
  commands.parent.mkdir(parents=True, exist_ok=True)
  commands.write_text('\n'.join(shlex.join(run[2]) for run in runs) + '\n')
  line = f'sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(commands))}'
  subprocess.run(
      [
          'sbatch',
          f'--array=0-{len(runs) - 1}%{parallel}',
          f'--output={workdir}/slurm-%a.out',
          '--job-name=sweep',
          f'--wrap=eval "$({line})"',
      ],
      check=True,
  )


def rows_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """A row for each finished run: what was swept, and its results."""
  rows = []
  for override, workdir, _ in filter(finished, runs):
    results = json.loads((workdir / 'results.json').read_text())
    row = {**override, 'step': results.pop('step')}
    ((split, found),) = results.items()
    row['split'] = split
    for who, metrics in found.items():
      row |= {f'{who}_{metric}': value for metric, value in metrics.items()}
    rows.append(row)
  return rows


def write_table(rows: Sequence[dict[str, Any]], path: epath.Path) -> None:
  """Writes all rows as comma-separated values."""
  fields = list(dict.fromkeys(field for row in rows for field in row))
  with path.open('w') as file:
    table = csv.DictWriter(file, fields, lineterminator='\n')
    table.writeheader()
    table.writerows(rows)


def main(argv: Sequence[str]) -> None:
  """Runs, or prints or submits, what is left; then shows what there is."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
  workdir = epath.Path(_WORKDIR.value)
  try:
    runs = runs_of(_CONFIG.value, workdir)
  except ValueError as e:
    sys.exit(f'ValueError: {e}')
  left = [run for run in runs if not finished(run)]
  logging.info('%d of %d runs are finished', len(runs) - len(left), len(runs))
  failed = []
  if _PRINT.value:
    print('\n'.join(shlex.join(run[2]) for run in left))
  elif _SLURM.value and left:
    submit(left, workdir, _PARALLEL.value)
  else:
    failed = train_all(left, _PARALLEL.value)
  if rows := rows_of(runs):
    from flax_enn.evaluation.sweep_plot import draw  # matplotlib takes time

    write_table(rows, workdir / 'sweep.csv')
    swept = list(dict.fromkeys(field for run in runs for field in run[0]))
    draw(rows, swept, _METRIC.value, workdir / 'sweep.png')
    logging.info('See sweep.csv and sweep.png in %s', workdir)
  if failed:
    sys.exit(
        f'{len(failed)} of {len(runs)} runs failed; see train.log in '
        + ', '.join(str(run[1]) for run in failed)
    )


if __name__ == '__main__':
  app.run(main)
