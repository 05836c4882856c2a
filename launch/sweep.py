"""Runs a config once for every entry of its `sweep()`, and shows what came out.

  python launch/sweep.py --config=configs/two_moons_epinet.py \
    --workdir=runs/two_moons_sweep

A config file may define `sweep()`, a list of overrides (see
`flax_enn/training/sweeps.py`). Every run has a folder in --workdir, named by
what differs. Finished ones are skipped and broken ones go on, so that the same
command may be given again and again; Ctrl-C and SIGTERM stop it, all saved. It
leaves `sweep.csv`, all results, and `sweep.png`, the metric against what was
swept.
"""

from collections.abc import Callable, Mapping, Sequence
import csv
import dataclasses
import importlib.util
import json
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from absl import app, flags, logging
from etils import epath
import ml_collections

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


@dataclasses.dataclass(frozen=True)
class Run:
  """One run of a sweep.

  Attributes:
    override: what differs from the config file.
    workdir: of the run.
    command: that starts it, or goes on with it.
    config: that it trains.
  """

  override: Mapping[str, Any]
  workdir: epath.Path
  command: list[str]
  config: ml_collections.ConfigDict

  @property
  def finished(self) -> bool:
    """Whether its results are there, and are those of its config."""
    config, results = (
        self.workdir / name for name in ('config.json', 'results.json')
    )
    if not config.exists() or not results.exists():
      return False
    # Steps and evaluation may change, and do so in config.json first.
    same = json.loads(config.read_text()) == json.loads(self.config.to_json())
    return same and results.stat().mtime >= config.stat().mtime


def read(path: str) -> tuple[Callable[..., Any], Callable[[], list[Any]]]:
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
      there are none, or a folder holds a run of another config.
  """
  from flax_enn.build import build
  from flax_enn.training import config as config_lib
  from flax_enn.training import sweeps

  path, *variant = config.split(':', 1)
  get_config, sweep = read(path)
  runs, names = [], set()
  for override in sweep():
    changed = sweeps.apply(get_config(*variant), override)
    config_lib.check(changed)
    build(changed.network, 'flax_enn.networks', 'config.network')
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
    runs.append(Run(override, workdir / name, command, changed))
  if not runs:
    raise ValueError(f'sweep() of {path} is empty: there is nothing to run')
  return runs


def start(run: Run) -> subprocess.Popen[bytes]:
  """Starts a run, its output in `train.log` beside its results."""
  run.workdir.mkdir(parents=True, exist_ok=True)
  with (run.workdir / 'train.log').open('a') as log:
    # Ctrl-C would end it at once; from us it hears SIGTERM, and saves.
    return subprocess.Popen(
        run.command, stdout=log, stderr=log, start_new_session=True
    )


def train_all(runs: Sequence[Run], parallel: int) -> tuple[list[Run], bool]:
  """Trains some at a time and says how far it is.

  Returns:
    The runs that failed, and whether all were asked to stop.
  """
  stop, asks = threading.Event(), (signal.SIGINT, signal.SIGTERM)
  for number in asks:
    signal.signal(number, lambda *_: stop.set())
  waiting, running = list(runs), {}
  failed, done, since = [], 0, time.monotonic()
  while running or waiting:
    while waiting and len(running) < parallel:
      run = waiting.pop(0)
      running[start(run)] = run
    if stop.wait(0.1):
      break
    for process in [p for p in running if p.poll() is not None]:
      run, done = running.pop(process), done + 1
      if not run.finished:
        failed.append(run)
      left = (time.monotonic() - since) / done * (len(runs) - done)
      logging.info(
          '%s %s; %d of %d done, ETA: %.0f s',
          *('Finished' if run.finished else 'FAILED', run.workdir.name),
          *(done, len(runs), left),
      )
  for number in asks:  # asked again, we do not wait
    signal.signal(number, signal.SIG_DFL)
  for process in running:
    process.terminate()
  for process in running:
    process.wait()
  return failed, stop.is_set()


def submit(runs: Sequence[Run], workdir: epath.Path, parallel: int) -> None:
  """Submits one Slurm array of all commands."""
  commands = workdir / 'commands.txt'
  commands.parent.mkdir(parents=True, exist_ok=True)
  commands.write_text('\n'.join(shlex.join(run.command) for run in runs) + '\n')
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
  for run in runs:
    if not run.finished:
      continue
    results = json.loads((run.workdir / 'results.json').read_text())
    row = {**run.override, 'step': results.pop('step')}
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
  left = [run for run in runs if not run.finished]
  logging.info('%d of %d runs are finished', len(runs) - len(left), len(runs))
  wrong = []
  if _PRINT.value:
    print('\n'.join(shlex.join(run.command) for run in left))
  elif _SLURM.value and left:
    submit(left, workdir, _PARALLEL.value)
  else:
    failed, stopped = train_all(left, _PARALLEL.value)
    if failed:
      wrong.append(
          f'{len(failed)} of {len(runs)} runs failed; see train.log in '
          + ', '.join(str(run.workdir) for run in failed)
      )
    if stopped:
      wrong.append('Stopped; the same command goes on from here')
  if rows := rows_of(runs):
    from flax_enn.evaluation.sweep_plot import draw  # matplotlib takes time

    write_table(rows, workdir / 'sweep.csv')
    swept = list(dict.fromkeys(field for run in runs for field in run.override))
    try:
      draw(rows, swept, _METRIC.value, workdir / 'sweep.png')
    except ValueError as e:
      wrong.append(f'ValueError: {e}')
    logging.info('See sweep.csv and sweep.png in %s', workdir)
  if wrong:
    sys.exit('\n'.join(wrong))


if __name__ == '__main__':
  app.run(main)
