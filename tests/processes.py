"""Runs of train.py in real processes, which a test meets where it wants to."""

import collections
import contextlib
import dataclasses
import json
import os
from pathlib import Path
import re
import socket
import subprocess
import sys
import threading
import time

from flax_enn.data.two_moons import TwoMoons
from tests import tiny

# Where a `Gated` data set looks for its gates.
GATES = 'FLAX_ENN_TEST_GATES'


@dataclasses.dataclass(frozen=True)
class Gated(TwoMoons):
  """Two moons whose readers wait at a gate, so that no race can overtake it.

  A gate is a file with the name of a split, which holds a number: as long as it
  is there, no process reads more examples of the split than that, and says in a
  file beside it that it is waiting.
  """

  def load(self, split):
    return _Gate(super().load(split), split)


_read = collections.Counter()


@dataclasses.dataclass(frozen=True)
class _Gate:
  examples: object
  split: str

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    gate = Path(os.environ.get(GATES, os.devnull), self.split)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      while _read[self.split] >= int(gate.read_text()):
        gate.with_suffix('.waiting').touch()
        time.sleep(0.01)
    _read[self.split] += 1
    return self.examples[index]


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


_RUN = 'import runpy; runpy.run_path({!r}, run_name="__main__")'


class Run:
  """Some processes of train.py, and what each of them says."""

  def __init__(self, config, workdir, processes, devices, *flags, patch=''):
    """Starts them, each after it has run `patch`, a Python program."""
    port, train = free_port(), str(tiny.ROOT / 'train.py')
    script = ['-c', f'{patch}\n{_RUN.format(train)}'] if patch else [train]
    command = [
        sys.executable, *script, f'--config={config}',
        f'--workdir={workdir}', '--start_timeout=60',
        '--peer_timeout=20', *flags,
    ]  # fmt: skip
    many = [f'--coordinator_address=localhost:{port}',
            f'--num_processes={processes}'] * (processes > 1)  # fmt: skip
    self.said = [[] for _ in range(processes)]
    self.processes = [
        subprocess.Popen(
            [*command, *many, *[f'--process_id={i}'] * (processes > 1)],
            env=tiny.environment(devices),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(processes)
    ]
    self._readers = [
        threading.Thread(target=self._read, args=pair, daemon=True)
        for pair in zip(self.processes, self.said)
    ]
    for reader in self._readers:
      reader.start()

  def _read(self, process, lines):
    lines.extend(iter(process.stdout.readline, ''))

  def wait_for(self, what, come, pause=0.01):
    """Returns once `come()` is true; all processes live until then."""
    end = time.monotonic() + 240
    while not come():
      assert self.alive(), f'{what} did not come\n{self.log()}'
      assert time.monotonic() < end, f'{what} did not come\n{self.log()}'
      time.sleep(pause)

  def wait_for_step(self, step):
    """Returns once process 0 has logged a step."""

    def logged():
      found = re.findall(r'\] \[(\d+)\] .*loss=', ''.join(self.said[0]))
      return any(int(number) >= step for number in found)

    self.wait_for(f'step {step}', logged)

  def wait_for_text(self, text):
    """Returns once process 0 has said it."""
    self.wait_for(text, lambda: text in ''.join(self.said[0]))

  def alive(self):
    return all(process.poll() is None for process in self.processes)

  def codes(self, timeout=300):
    """The exit codes of all."""
    try:
      codes = [process.wait(timeout) for process in self.processes]
    finally:
      self.end()
    for reader in self._readers:
      reader.join(10)
    return codes

  def end(self):
    for process in self.processes:
      process.kill()

  def log(self):
    return '\n'.join(''.join(lines[-40:]) for lines in self.said)


@contextlib.contextmanager
def started(*args, **options):
  run = Run(*args, **options)
  try:
    yield run
  finally:
    run.end()


def finish(*args):
  """Runs to the end; what the processes said."""
  with started(*args) as run:
    assert run.codes() == [0] * len(run.processes), run.log()
  return [''.join(lines) for lines in run.said]


def results(workdir):
  return json.loads((workdir / 'results.json').read_text())


def saved_steps(workdir):
  """Those that were saved to the end."""
  names = [p.name for p in (workdir / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())
