"""Runs of several real processes: the same numbers, and all end together.

(That nothing is lost where they are killed or asked to stop: test_resume.py.)
"""

import contextlib
import re
import signal
import time

import pytest

from flax_enn.training import load_config, train_and_evaluate
from tests import processes

STEPS = 40
# Seconds in which an error of one ends all. --peer_timeout is 20 here,
# and a lost connection shows sooner; JAX's own shutdown would wait for 300.
IN_TIME = 150
CONFIG = f'''
from tests import tiny

def get_config():
  return tiny.epinet(**{{
      'num_steps': {STEPS},
      'eval.every': {STEPS // 2},
      'checkpoint.every': 0,
      'mesh.index': 2,
  }})
'''


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return path


def finish(*args):
  """Runs to the end; what `results.json` says."""
  processes.finish(*args)
  return processes.results(args[1])


def assert_close(found, expected, rel=1e-5):
  assert found['step'] == expected['step']
  for who, values in expected['test'].items():
    assert found['test'][who] == pytest.approx(values, rel=rel)


@pytest.fixture(scope='module')
def reference(config_file, tmp_path_factory):
  """The workdir of an uninterrupted run of two processes."""
  workdir = tmp_path_factory.mktemp('reference')
  finish(config_file, workdir, 2, 4)
  return workdir


@pytest.mark.slow
def test_two_processes_are_one(config_file, reference, tmp_path):
  """The one is this, of eight devices."""
  expected = train_and_evaluate(load_config(str(config_file)), tmp_path)
  assert_close(processes.results(reference), expected)
  # The second process writes nothing: one file of curves, as of one process.
  for workdir in (reference, tmp_path):
    assert len(list(workdir.glob('events.out.tfevents.*'))) == 1
  names = [{p.name for p in w.iterdir() if 'tfevents' not in p.name}
           for w in (reference, tmp_path)]  # fmt: skip
  assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    'number, devices, mesh',
    [
        pytest.param(
            *(4, 2, ['--config.mesh.index=2']), marks=pytest.mark.long
        ),
        # The index axis, and that of wide kernels, across processes.
        (2, 2, ['--config.mesh.data=1', '--config.mesh.index=2',
                '--config.mesh.fsdp=2', '--config.num_indices=4']),
    ],
)  # fmt: skip
def test_any_processes_are_one(number, devices, mesh, config_file, tmp_path):
  indices = [flag for flag in mesh if 'num_indices' in flag]
  expected = finish(
      config_file, tmp_path / 'one', 1, 1, '--config.mesh.index=1', *indices
  )
  found = finish(config_file, tmp_path / 'many', number, devices, *mesh)
  # Float32 training drifts apart by rounding; law 4 has one step to 1e-5.
  assert_close(found, expected, rel=1e-3)


@pytest.mark.slow
def test_a_killed_process_ends_the_run(config_file, reference, tmp_path):
  with processes.started(
      config_file, tmp_path, 2, 2, '--config.checkpoint.every=5'
  ) as run:
    run.wait_for_step(7)
    run.processes[1].kill()
    code, killed = run.codes(IN_TIME)
    assert killed == -signal.SIGKILL
    assert code != 0, run.log()
  assert not (tmp_path / 'results.json').exists()
  # An unfinished save is passed over, by one process on another mesh too.
  found = finish(config_file, tmp_path, 1, 8)
  assert_close(found, processes.results(reference), rel=1e-3)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(config_file, tmp_path):
  with processes.started(config_file, tmp_path, 2, 2) as run:
    run.wait_for_step(3)
    run.processes[1].send_signal(signal.SIGSTOP)
    assert run.processes[0].wait(IN_TIME) != 0
    text = ''.join(run.said[0])
  assert re.search(r'heartbeat|unhealthy|task died', text), text[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    'number, devices', [(1, 1), pytest.param(4, 2, marks=pytest.mark.long)]
)
def test_elastic(number, devices, config_file, reference, tmp_path):
  with processes.started(config_file, tmp_path, 2, 2) as run:
    run.wait_for_step(3)
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.codes() == [0, 0], run.log()
  mesh = [f'--config.mesh.index={min(2, devices)}']
  found = finish(config_file, tmp_path, number, devices, *mesh)
  assert_close(found, processes.results(reference), rel=1e-3)


@contextlib.contextmanager
def apart(config, workdirs, flags=((), ())):
  """Two processes of one run, each with a workdir and flags of its own."""
  port = processes.free_port()
  given = [f'--coordinator_address=localhost:{port}', '--num_processes=2']
  runs = []
  try:
    for i in range(2):
      own = [*given, f'--process_id={i}', *flags[i]]
      runs.append(processes.Run(config, workdirs[i], 1, 2, *own))
    yield runs
  finally:
    for run in runs:
      run.end()


def end_of(runs):
  """What both said, once both have ended with an error and in time."""
  end = time.monotonic() + IN_TIME
  codes = [
      code for run in runs for code in run.codes(end - time.monotonic())
  ]
  assert all(codes), [run.log() for run in runs]
  return [run.log() for run in runs]


def test_processes_must_agree(config_file, tmp_path):
  flags = [[f'--config.num_indices={n}'] for n in (2, 4)]
  with apart(config_file, [tmp_path] * 2, flags) as runs:
    said = end_of(runs)
  assert any('the config differs between processes' in s for s in said), said
  assert not (tmp_path / 'checkpoints').exists()


@pytest.mark.slow
def test_a_workdir_that_is_not_shared(config_file, tmp_path):
  with apart(config_file, [tmp_path / 'a', tmp_path / 'b']) as runs:
    said = end_of(runs)
  assert any('is not the same folder on all hosts' in s for s in said), said
  assert not list(tmp_path.glob('*/checkpoints'))


@pytest.mark.slow
@pytest.mark.parametrize(
    'which', [0, pytest.param(1, marks=pytest.mark.long)]
)
def test_an_error_of_one_process_ends_both(which, config_file, tmp_path):
  workdirs = [tmp_path / 'a', tmp_path / 'b']
  workdirs[which].mkdir()
  (workdirs[which] / 'config.json').write_text('{"seed": 7}')
  with apart(config_file, workdirs) as runs:
    said = end_of(runs)
  assert 'belongs to another config' in said[which]
