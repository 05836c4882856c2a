"""Hosts that are late, slow, hung or gone, as real processes of one machine.

(One that is killed or hangs while others train: test_processes.py.)
"""

import contextlib
import re
import signal
import socket
import time

import pytest

from flax_enn.training import load_config, train_and_evaluate
from tests import commands, processes, tiny

pytestmark = pytest.mark.slow

CONFIG = '''
from tests import tiny

def get_config():
  return tiny.epinet(num_steps={steps})
'''


def write_config(folder, steps):
  path = folder / 'config.py'
  path.write_text(CONFIG.format(steps=steps))
  return path


@pytest.fixture
def for_ever(tmp_path):
  return write_config(tmp_path, 10**6)


# What a job that is gone has left in the environment.
STALE_SLURM = {
    'SLURM_JOB_ID': '7', 'SLURM_NTASKS': '2', 'SLURM_PROCID': '1',
    'SLURM_LOCALID': '0', 'SLURM_STEP_NODELIST': 'gone.invalid',
}  # fmt: skip


@pytest.mark.long
def test_a_process_may_come_late(for_ever, tmp_path, monkeypatch):
  """Later than --peer_timeout, which is another one; flags are what counts."""
  for name, value in STALE_SLURM.items():
    monkeypatch.setenv(name, value)
  monkeypatch.setenv('JAX_COORDINATOR_ADDRESS', 'gone.invalid:1')
  runs, port = [], processes.free_port()
  with contextlib.ExitStack() as stack:
    for i in range(2):
      runs.append(stack.enter_context(processes.started(
          for_ever, tmp_path / 'run', 1, 1, '--peer_timeout=2',
          f'--coordinator_address=127.0.0.1:{port}', '--num_processes=2',
          f'--process_id={i}',
      )))  # fmt: skip
      if not i:
        runs[0].wait_for_text('Waiting up to')
        time.sleep(3)
        # It listens there, and nowhere else.
        socket.create_connection(('127.0.0.1', port), 5).close()
        with pytest.raises(ConnectionRefusedError):
          socket.create_connection(('127.0.0.2', port), 5)
    for i, run in enumerate(runs):
      run.wait_for_text(f'Process {i} of 2, 1 of 2 devices')


# What JAX sees on a TPU VM of GKE that has no TPU.
MEGASCALE = f'''
import runpy
from flax_enn import distributed
from jax._src.clusters import cloud_tpu_cluster

cloud_tpu_cluster.running_in_cloud_tpu_vm = True
distributed.cluster_detected = lambda env: True
runpy.run_path({str(tiny.ROOT / 'train.py')!r}, run_name='__main__')
'''
STALE_MEGASCALE = {
    'MEGASCALE_NUM_SLICES': '2', 'MEGASCALE_SLICE_ID': '0',
    'MEGASCALE_COORDINATOR_ADDRESS': 'localhost',
    'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0',
    'TPU_SKIP_MDS_QUERY': '1',
}  # fmt: skip


def test_others_that_never_come(tmp_path):
  """Each run ends with a sentence that says where it looked for them."""
  config, port = write_config(tmp_path, 2), processes.free_port()
  train, megascale = tiny.ROOT / 'train.py', tmp_path / 'megascale.py'
  megascale.write_text(MEGASCALE)
  hand = ['--num_processes=2', f'--coordinator_address=localhost:{port}']
  here = {'JAX_COORDINATOR_ADDRESS': f'localhost:{port}'}
  cases = [
      ([train, *hand, '--process_id=0'], {}, hand[1]),
      ([train, *hand, '--process_id=1'], {}, f'no process 0 at {hand[1]}'),
      # A job of Slurm that is gone; another coordinator than that of the job.
      ([train], STALE_SLURM, 'SLURM_STEP_NODELIST=gone.invalid'),
      ([train], STALE_SLURM | here | {'SLURM_PROCID': '0'},
       f'JAX_COORDINATOR_ADDRESS=localhost:{port}'),
      # A slice that was replaced: the other, or the coordinator, is not there.
      ([megascale], STALE_MEGASCALE, 'MEGASCALE_NUM_SLICES=2'),
      ([megascale], STALE_MEGASCALE | {
          'MEGASCALE_SLICE_ID': '1',
          'MEGASCALE_COORDINATOR_ADDRESS': 'slice-0.gone.invalid',
      }, 'MEGASCALE_COORDINATOR_ADDRESS=slice-0.gone.invalid'),
  ]  # fmt: skip
  flags = [f'--config={config}', f'--workdir={tmp_path}/run']
  with commands.interpreter() as run:
    for command, env, says in cases:
      begun = time.monotonic()
      code, said = run(tmp_path, [*command, *flags, '--start_timeout=2'], **env)
      assert code == 1 and says in said and '--start_timeout' in said, said
      assert 'Traceback' not in said and 'stack trace' not in said, said
      assert time.monotonic() - begun < 20
  assert not (tmp_path / 'run').exists()


# What JAX says of a coordinator that is gone.
LOST = 'coordination service|distributed service|Gloo'
STALLS = '''
import sys, time
from flax_enn.data import Loader

read = Loader.train_batches

def stalls(*args, **options):
  for number, batch in enumerate(read(*args, **options)):
    if number == 5:
      time.sleep(600)
    yield batch

if '--process_id=0' in sys.argv:
  Loader.train_batches = stalls
'''


def test_a_loader_that_stalls_ends_the_run(for_ever, tmp_path):
  with processes.started(
      for_ever, tmp_path / 'run', 2, 1, '--peer_timeout=4', patch=STALLS
  ) as run:
    codes = run.codes(100)
    said = [''.join(lines) for lines in run.said]
  assert codes[0] == 1 and codes[1], run.log()
  assert '[2] ' in said[0] and (
      f'process 0 of 2, host {socket.gethostname()}, waited 4 s for data'
  ) in said[0]
  assert 'for data' not in said[1] and re.search(LOST, said[1]), said[1]


LATE = '''
import sys, time
from flax_enn.checkpoints import Checkpointer

restore = Checkpointer.restore_latest

def late(*args, **options):
  found = restore(*args, **options)
  assert found is not None
  time.sleep(600)
  return found

if '--process_id=1' in sys.argv:
  Checkpointer.restore_latest = late
'''


@pytest.mark.long
def test_a_slow_rank_after_restore(tmp_path):
  """Whoever waits for it says which one it is."""
  workdir = tmp_path / 'run'
  train_and_evaluate(tiny.epinet(), workdir)
  config = write_config(tmp_path, 6)
  with processes.started(
      config, workdir, 2, 1, '--start_timeout=5', patch=LATE
  ) as run:
    codes = run.codes(100)
  assert codes[0] == 1 and codes[1], run.log()
  said = ''.join(run.said[0])
  assert re.search(r'processes \[.1.\] have not restored .* within 5 s', said)
  assert processes.saved_steps(workdir) == [2, 4]


@pytest.mark.long
def test_a_lost_coordinator_ends_the_run(for_ever, tmp_path):
  """No connection is closed; that case is the loader's, above."""
  with processes.started(
      for_ever, tmp_path / 'run', 2, 1, '--peer_timeout=5'
  ) as run:
    run.wait_for_step(3)
    run.processes[0].send_signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert run.processes[1].wait(100) != 0
    assert time.monotonic() - begun < 60
  run.codes()
  assert re.search(LOST, ''.join(run.said[1])), run.log()


TORN = '''
from tests import tiny

def get_config():
  return tiny.epinet(
      num_steps=16,
      dataset={
          'name': 'tests.bad_input.test_bad_data:Torn',
          'n_train': 128,
          'n_test': 24,
      },
      **{'dataset.skip_bad': 1, 'checkpoint.every': 0, 'log_every': 3},
  )
'''


def test_a_record_that_one_host_cannot_read(tmp_path):
  """All save what was trained before it, and the run can go on from there."""
  config, workdir = tmp_path / 'config.py', tmp_path / 'run'
  config.write_text(TORN)
  with processes.started(config, workdir, 2, 1) as run:
    codes = run.codes(100)
    said = run.log()
  assert 2 in codes and 0 not in codes, said
  assert re.search(r'config\.dataset: .*id (7|90) .*skip_bad', said), said
  (saved,) = processes.saved_steps(workdir)
  assert 0 < saved < 8, said  # both are in the first epoch, of 8 steps
  # Goes on in one process, with as many devices as there are.
  config = load_config(str(config))
  config.dataset.skip_bad = 2
  found = train_and_evaluate(config, workdir)
  expected = train_and_evaluate(config, tmp_path / 'whole')
  for who, values in expected['test'].items():
    assert found['test'][who] == pytest.approx(values, rel=1e-5)
