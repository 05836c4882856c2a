"""Runs a config once for every entry of its `sweep()`, and shows what came out.

  python launch/sweep.py --config=configs/two_moons_epinet.py \
    --workdir=runs/two_moons_sweep

A config file may define `sweep()`, a list of overrides (see `flax_enn.sweep`).
Every run has a folder in --workdir, named by what differs. Finished ones are
skipped and broken ones go on, so that the same command may be given again and
again; Ctrl-C and SIGTERM stop it, all saved. It leaves `sweep.csv`, all
results, and `sweep.png`, the metric against what was swept. What a run says is
in `train.log` beside its results; where --workdir is a bucket, in the folder of
its last name here.
"""

from collections.abc import Sequence
import ctypes
from pathlib import Path
import shlex
import signal
import subprocess
import sys
import threading
import time

from absl import app, flags, logging
from etils import epath

# The repository, as train.py has it.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flax_enn import storage, sweep
from flax_enn.sweep import Run

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
_METRIC = flags.DEFINE_string(
    'metric',
    'joint_nll',
    "What the plot shows; NAME.METRIC of an evaluation not the run's own.",
)
_COMPILATION_CACHE = flags.DEFINE_string(
    'compilation_cache', None, 'Of all the runs, as in train.py.'
)
_PRINT = flags.DEFINE_bool(
    'print', False, 'Print the command of every run that is not finished.'
)
_SLURM = flags.DEFINE_bool(
    'slurm', False, 'Submit them as one Slurm array, --parallel at a time.'
)


TRAIN = Path(__file__).resolve().parents[1] / 'train.py'


def command(run: Run) -> list[str]:
  """What starts a run, or goes on with it."""
  cache = _COMPILATION_CACHE.value
  return [
      sys.executable,
      str(TRAIN),
      f'--config={_CONFIG.value}',
      f'--workdir={run.workdir}',
      *([] if cache is None else [f'--compilation_cache={cache}']),
      *(f'--config.{field}={value}' for field, value in run.override.items()),
  ]


def local_folder(workdir: epath.Path) -> Path:
  """What programs write to, and a shell reads: no bucket, but a folder here."""
  if storage.in_bucket(workdir):
    return Path(workdir.name).absolute()
  return Path(workdir)


def train_log(run: Run) -> Path:
  """The output of a run: beside its results, where they are in a folder."""
  return local_folder(run.workdir.parent) / run.workdir.name / 'train.log'


def start(run: Run) -> subprocess.Popen[bytes]:
  """Starts a run."""
  train_log(run).parent.mkdir(parents=True, exist_ok=True)
  with train_log(run).open('a') as log:
    # Ctrl-C would end it at once; from us it hears SIGTERM, and saves.
    return subprocess.Popen(
        command(run), stdout=log, stderr=log, start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == 'linux' else None,
    )  # fmt: skip


def _end_with_parent() -> None:
  """Asks Linux for SIGTERM when the sweep is killed, so that no run is left."""
  death_signal = 1  # PR_SET_PDEATHSIG
  ctypes.CDLL(None).prctl(death_signal, signal.SIGTERM)


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
  folder = local_folder(workdir)
  commands = folder / 'commands.txt'
  commands.parent.mkdir(parents=True, exist_ok=True)
  # A command is a line of its own: what breaks lines is put in by the shell.
  lines = [
      shlex.join(command(run)).replace('\n', '\'"$newline"\'') for run in runs
  ]
  commands.write_text('\n'.join([*lines, '']))
  line = f'sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {shlex.quote(str(commands))}'
  newline = "newline='\n'"
  subprocess.run(
      [
          'sbatch',
          f'--array=0-{len(runs) - 1}%{parallel}',
          f'--output={folder}/slurm-%a.out',
          '--job-name=sweep',
          f'--wrap={newline}; eval "$({line})"',
      ],
      check=True,
  )


def main(argv: Sequence[str]) -> None:
  """Runs, or prints or submits, what is left; then shows what there is."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
  workdir = epath.Path(_WORKDIR.value)
  try:
    runs = sweep.load_runs(_CONFIG.value, workdir)
  except ValueError as e:
    sys.exit(f'ValueError: {e}')
  left = [run for run in runs if not run.finished]
  logging.info('%d of %d runs are finished', len(runs) - len(left), len(runs))
  wrong = []
  if _PRINT.value:
    print('\n'.join(shlex.join(command(run)) for run in left))
  elif _SLURM.value and left:
    submit(left, workdir, _PARALLEL.value)
  else:
    failed, stopped = train_all(left, _PARALLEL.value)
    if failed:
      wrong.append(
          f'{len(failed)} of {len(runs)} runs failed; see '
          + ', '.join(str(train_log(run)) for run in failed)
      )
    if stopped:
      wrong.append('Stopped; the same command goes on from here')
  if rows := sweep.read_rows(runs):
    sweep.write_table(rows, workdir / 'sweep.csv')
    swept = list(dict.fromkeys(field for run in runs for field in run.override))
    try:
      sweep.plot(rows, swept, _METRIC.value, workdir / 'sweep.png')
    except ValueError as e:
      wrong.append(f'ValueError: {e}; change --metric')
    logging.info('See sweep.csv and sweep.png in %s', workdir)
  if wrong:
    sys.exit('\n'.join(wrong))


if __name__ == '__main__':
  app.run(main)
