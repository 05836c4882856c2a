"""Starts a run as several processes on this machine.

  python launch/local.py --num_processes=2 --devices_per_process=4 -- \
    --config=configs/digits_epinet.py --workdir=runs/two_processes

What follows the two dashes goes to train.py. It is the way to try on one
machine what a pod does: every process has emulated CPU devices of its own, and
they talk over the network. SIGTERM and Ctrl-C are passed on to all; where one
process fails, the others are ended.
"""

from collections.abc import Sequence
import os
from pathlib import Path
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import app, flags

_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', 2, 'How many processes to start.', lower_bound=1
)
_DEVICES = flags.DEFINE_integer(
    'devices_per_process', 1, 'Emulated CPU devices of each.', lower_bound=1
)

TRAIN = Path(__file__).resolve().parents[1] / 'train.py'
_SECONDS_TO_END = 60  # how long the others may take once one has failed


def start(
    num_processes: int, devices: int, arguments: Sequence[str]
) -> list[subprocess.Popen[str]]:
  """Starts the processes of one run.

  Args:
    num_processes: how many.
    devices: emulated CPU devices of each.
    arguments: of train.py.

  Returns:
    The processes, whose output is to be read from `stdout`.
  """
  with socket.socket() as s:
    s.bind(('localhost', 0))
    address = f'localhost:{s.getsockname()[1]}'
  env = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      # With fewer threads than devices, collectives wait for each other.
      'NPROC': str(max(16, devices)),
      'XLA_FLAGS': ' '.join([
          *os.environ.get('XLA_FLAGS', '').split(),
          f'--xla_force_host_platform_device_count={devices}',
      ]),
      'PYTHONUNBUFFERED': '1',
  }
  return [
      subprocess.Popen(
          [
              sys.executable,
              str(TRAIN),
              *arguments,
              f'--coordinator_address={address}',
              f'--num_processes={num_processes}',
              f'--process_id={i}',
          ],
          env=env,
          text=True,
          stdout=subprocess.PIPE,
          stderr=subprocess.STDOUT,
          # Ctrl-C reaches them through us alone.
          start_new_session=True,
      )
      for i in range(num_processes)
  ]


def wait(processes: Sequence[subprocess.Popen[str]]) -> int:
  """Shows what they say until all have ended; the exit code of the run."""
  readers = [
      threading.Thread(target=_show, args=numbered, daemon=True)
      for numbered in enumerate(processes)
  ]
  for reader in readers:
    reader.start()
  failed, since = 0, None
  while any(process.poll() is None for process in processes):
    codes = [process.poll() for process in processes]
    bad = next((code for code in codes if code), 0)
    if bad and since is None:
      failed, since = bad, time.monotonic()
      _signal(processes, signal.SIGTERM)
    if since is not None and time.monotonic() - since > _SECONDS_TO_END:
      _signal(processes, signal.SIGKILL)
    time.sleep(0.1)
  for reader in readers:
    reader.join()
  codes = [process.returncode for process in processes]
  return failed or next((code for code in codes if code), 0)


def _show(number: int, process: subprocess.Popen[str]) -> None:
  if process.stdout is not None:
    for line in process.stdout:
      print(f'[{number}] {line}', end='', flush=True)


def _signal(processes: Sequence[subprocess.Popen[str]], number: int) -> None:
  for process in processes:
    if process.poll() is None:
      process.send_signal(number)


def main(argv: Sequence[str]) -> None:
  """Starts what the flags say and ends as it ends."""
  processes = start(_NUM_PROCESSES.value, _DEVICES.value, argv[1:])
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda got, _: _signal(processes, signal.SIGTERM))
  code = wait(processes)
  sys.exit(code if code >= 0 else 128 - code)  # as a shell says -N, a signal


if __name__ == '__main__':
  app.run(main)
