"""What a small run takes beside its computing: at first, and later.

  python -m benchmarks.startup --configs=two_moons_epinet --starts=3

`cold` compiles everything into an empty compilation cache; `warm` finds it
there, and is the fastest of some starts. Seconds from the start of the process
to the end of its first step, and to its exit; CPU seconds of all threads, which
differ less where others use the machine. `train` is what `make train` does: a
base and then its epinet.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from benchmarks import timing

_CONFIGS = flags.DEFINE_list(
    'configs', ['two_moons_epinet'], 'Of configs/; and `train`, of two.'
)
_STARTS = flags.DEFINE_integer('starts', 3, 'With a warm cache.')
_NUM_STEPS = flags.DEFINE_integer('num_steps', 20, 'Of each run but `train`.')


def start(config: str, workdir: str, *options: str) -> dict[str, float]:
  """Runs `train.py` once."""
  begin = time.perf_counter()
  process = subprocess.Popen(
      [
          sys.executable,
          'train.py',
          f'--config=configs/{config}.py',
          f'--workdir={workdir}',
          *options,
      ],
      stderr=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      text=True,
  )
  assert process.stderr
  said, first = [], 0.0
  for line in process.stderr:
    said.append(line)
    if not first and 'loss_data=' in line:
      first = time.perf_counter() - begin
  _, status, usage = os.wait4(process.pid, 0)
  took = time.perf_counter() - begin
  if status:
    raise RuntimeError(''.join(said[-10:]))
  return {
      'first_step': first,
      'exit': took,
      'cpu_seconds': usage.ru_utime + usage.ru_stime,
  }


def one(config: str, cache: str) -> dict[str, float]:
  """One start of a small run, which logs its first step."""
  with tempfile.TemporaryDirectory() as workdir:
    return start(
        config,
        workdir,
        f'--compilation_cache={cache}',
        f'--config.num_steps={_NUM_STEPS.value}',
        '--config.log_every=1',
    )


def train(cache: str) -> dict[str, float]:
  """Both stages of `make train`."""
  with tempfile.TemporaryDirectory() as name:
    runs = pathlib.Path(name)
    option = f'--compilation_cache={cache}'
    base = start('digits_base', f'{runs}/digits_base', option)
    epinet = start('digits_epinet', f'{runs}/digits_epinet', option)
  return {k: base[k] + epinet[k] for k in ('exit', 'cpu_seconds')}


def main(argv: list[str]) -> None:
  """Prints two rows for each config."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for config in _CONFIGS.value:
    with tempfile.TemporaryDirectory() as cache:

      def run(config: str = config, cache: str = cache) -> dict[str, float]:
        return train(cache) if config == 'train' else one(config, cache)

      timing.print_row(f'{config}, cold', **run())
      found = [run() for _ in range(_STARTS.value)]
    best = {k: min(f[k] for f in found) for k in found[0]}
    timing.print_row(f'{config}, warm', **best)


if __name__ == '__main__':
  app.run(main)
