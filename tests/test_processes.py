"""Runs of several real processes: the same numbers, and nothing is lost."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from tests import tiny

STEPS = 40
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


def free_port():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


class Run:
  """Some processes of train.py, and what each of them says."""

  def __init__(self, config, workdir, processes, devices, *flags):
    port = free_port()
    env = {
        **os.environ,
        'PYTHONPATH': str(tiny.ROOT),
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    command = [
        sys.executable, str(tiny.ROOT / 'train.py'), f'--config={config}',
        f'--workdir={workdir}', '--peer_timeout=20', *flags,
    ]  # fmt: skip
    many = [f'--coordinator_address=localhost:{port}',
            f'--num_processes={processes}'] * (processes > 1)  # fmt: skip
    self.said = [[] for _ in range(processes)]
    self.processes = [
        subprocess.Popen(
            [*command, *many, *[f'--process_id={i}'] * (processes > 1)],
            env=env,
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

  def wait_for_step(self, step):
    """Returns once process 0 has logged a step."""
    end = time.monotonic() + 240
    while time.monotonic() < end:
      for line in list(self.said[0]):
        logged = re.search(r'\] \[(\d+)\] .*loss=', line)
        if logged and int(logged[1]) >= step:
          return
      assert self.processes[0].poll() is None, self.log()
      time.sleep(0.01)
    pytest.fail(f'step {step} did not come\n{self.log()}')

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
def started(*args):
  run = Run(*args)
  try:
    yield run
  finally:
    run.end()


def finish(*args):
  """Runs to the end; what `results.json` says."""
  with started(*args) as run:
    assert run.codes() == [0] * len(run.processes), run.log()
  return results(args[1])


def results(workdir):
  return json.loads((workdir / 'results.json').read_text())


def assert_close(found, expected, rel=1e-5):
  assert found['step'] == expected['step']
  for who, values in expected['test'].items():
    assert found['test'][who] == pytest.approx(values, rel=rel)


@pytest.fixture(scope='module')
def reference(config_file, tmp_path_factory):
  """The workdir of an uninterrupted run of two processes."""
  workdir = tmp_path_factory.mktemp('reference')
  finish(config_file, workdir, 2, 2)
  return workdir


def saved_steps(workdir):
  """Those that were saved to the end."""
  names = [p.name for p in (workdir / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


def test_two_processes_are_one(config_file, reference, tmp_path):
  expected = finish(config_file, tmp_path, 1, 4)
  assert_close(results(reference), expected)
  # The second process writes nothing: one file of curves, as of one process.
  for workdir in (reference, tmp_path):
    assert len(list(workdir.glob('events.out.tfevents.*'))) == 1
  names = [{p.name for p in w.iterdir() if 'tfevents' not in p.name}
           for w in (reference, tmp_path)]  # fmt: skip
  assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    'processes, devices, mesh',
    [
        (4, 1, ['--config.mesh.index=2']),
        (4, 2, ['--config.mesh.index=2']),
        # The index axis, and that of wide kernels, across processes.
        (2, 2, ['--config.mesh.data=1', '--config.mesh.index=4',
                '--config.num_indices=4']),
        (2, 2, ['--config.mesh.data=1', '--config.mesh.fsdp=2']),
    ],
)  # fmt: skip
def test_any_processes_are_one(
    processes, devices, mesh, config_file, tmp_path
):
  indices = [flag for flag in mesh if 'num_indices' in flag]
  expected = finish(
      config_file, tmp_path / 'one', 1, 1, '--config.mesh.index=1', *indices
  )
  found = finish(config_file, tmp_path / 'many', processes, devices, *mesh)
  # Float32 training drifts apart by rounding; law 4 has one step to 1e-5.
  assert_close(found, expected, rel=1e-3)


@pytest.mark.parametrize('asked', [0, 1])
def test_sigterm_to_one_saves_on_all(asked, config_file, reference, tmp_path):
  with started(config_file, tmp_path, 2, 2) as run:
    run.wait_for_step(3)
    run.processes[asked].send_signal(signal.SIGTERM)
    assert run.codes() == [0, 0], run.log()
    said = [''.join(lines) for lines in run.said]
  steps = {re.search(r'Asked to stop (.*?);', text)[1] for text in said}
  assert len(steps) == 1, said
  assert not (tmp_path / 'results.json').exists()
  if 'after step' in steps.pop():
    assert len(saved_steps(tmp_path)) == 1
  finish(config_file, tmp_path, 2, 2)
  expected = (reference / 'results.json').read_bytes()
  assert (tmp_path / 'results.json').read_bytes() == expected


def test_a_killed_process_ends_the_run(config_file, reference, tmp_path):
  with started(
      config_file, tmp_path, 2, 2, '--config.checkpoint.every=5'
  ) as run:
    run.wait_for_step(7)
    run.processes[1].kill()
    start = time.monotonic()
    code, killed = run.codes(timeout=90)
    # --peer_timeout is 20 here; a lost connection shows sooner.
    assert time.monotonic() - start < 60
    assert killed == -signal.SIGKILL
    assert code != 0, run.log()
  assert not (tmp_path / 'results.json').exists()
  # An unfinished save is passed over, by one process on another mesh too.
  found = finish(config_file, tmp_path, 1, 8)
  assert_close(found, results(reference), rel=1e-3)


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run(config_file, tmp_path):
  with started(config_file, tmp_path, 2, 2) as run:
    run.wait_for_step(3)
    run.processes[1].send_signal(signal.SIGSTOP)
    start = time.monotonic()
    code = run.processes[0].wait(120)
    assert time.monotonic() - start < 90
    assert code != 0
    text = ''.join(run.said[0])
  assert re.search(r'heartbeat|unhealthy|task died', text), text[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize('processes, devices', [(1, 1), (1, 8), (4, 2)])
def test_elastic(processes, devices, config_file, reference, tmp_path):
  with started(config_file, tmp_path, 2, 2) as run:
    run.wait_for_step(3)
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.codes() == [0, 0], run.log()
  mesh = [f'--config.mesh.index={min(2, devices)}']
  found = finish(config_file, tmp_path, processes, devices, *mesh)
  assert_close(found, results(reference), rel=1e-3)


def test_sigterm_of_one_process(config_file, tmp_path):
  with started(config_file, tmp_path, 1, 4) as run:
    run.wait_for_step(3)
    run.processes[0].send_signal(signal.SIGTERM)
    assert run.codes() == [0], run.log()
  (step,) = saved_steps(tmp_path)
  assert f'Asked to stop after step {step}' in ''.join(run.said[0])
  assert 'Traceback' not in run.log()


@contextlib.contextmanager
def apart(config, workdirs, flags=((), ())):
  """Two processes of one run, each with a workdir and flags of its own."""
  port = free_port()
  given = [f'--coordinator_address=localhost:{port}', '--num_processes=2']
  runs = []
  try:
    for i in range(2):
      own = [*given, f'--process_id={i}', *flags[i]]
      runs.append(Run(config, workdirs[i], 1, 2, *own))
    yield runs
  finally:
    for run in runs:
      run.end()


def end_of(runs):
  """What both said, once both have ended with an error and in time."""
  start = time.monotonic()
  codes = [code for run in runs for code in run.codes(150)]
  assert all(codes), [run.log() for run in runs]
  # --peer_timeout is 20; JAX's own shutdown would wait for 300 seconds.
  assert time.monotonic() - start < 120
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
@pytest.mark.parametrize('which', [0, 1])
def test_an_error_of_one_process_ends_both(which, config_file, tmp_path):
  workdirs = [tmp_path / 'a', tmp_path / 'b']
  workdirs[which].mkdir()
  (workdirs[which] / 'config.json').write_text('{"seed": 7}')
  with apart(config_file, workdirs) as runs:
    said = end_of(runs)
  assert 'belongs to another config' in said[which]


LONG = CONFIG.replace(f"'num_steps': {STEPS}", "'num_steps': 100000").replace(
    f"'eval.every': {STEPS // 2}", "'eval.every': 50"
)


@pytest.mark.slow
def test_sigterm_after_a_judgement_and_a_resume(tmp_path):
  config, workdir = tmp_path / 'config.py', tmp_path / 'run'
  config.write_text(LONG)
  before = 0
  for after in (60, 170):
    with started(config, workdir, 2, 2) as run:
      run.wait_for_step(after)
      run.processes[1].send_signal(signal.SIGTERM)
      assert run.codes(60) == [0, 0], run.log()
      assert 'Asked to stop' in run.log()
    steps = saved_steps(workdir)
    assert steps[-1] > before
    before = steps[-1]


@pytest.mark.parametrize(
    'flags, says',
    [
        (['--num_processes=2'], 'needs all of --coordinator_address'),
        (
            ['--coordinator_address=localhost:1', '--num_processes=2',
             '--process_id=2'],
            '--process_id is 2; the 2 processes of --num_processes are 0 to 1',
        ),
        (
            ['--coordinator_address=localhost', '--num_processes=2',
             '--process_id=1'],
            "--coordinator_address is 'localhost'; expected HOST:PORT",
        ),
        (
            ['--coordinator_address=localhost:1', '--num_processes=2',
             '--process_id=1', '--peer_timeout=1'],
            'no process 0 at --coordinator_address=localhost:1 within 1 sec',
        ),
    ],
    ids=['some', 'number', 'no port', 'unreachable'],
)  # fmt: skip
def test_wrong_processes(flags, says, config_file, tmp_path):
  with started(config_file, tmp_path / 'run', 1, 1, *flags) as run:
    assert run.codes() == [1], run.log()
  assert says in run.log()
  assert 'Traceback' not in run.log()
  assert not (tmp_path / 'run').exists()


SLOW = '''
import time
from tests import tiny
from flax_enn.evaluation import evaluate

whole = evaluate.data.prefetch

def slowly(batches, put, **options):
  for batch in whole(batches, put, **options):
    time.sleep(1)
    print('a batch is read', flush=True)
    yield batch

def get_config():
  evaluate.data = type('Slow', (), {'prefetch': staticmethod(slowly)})
  return tiny.epinet(**{'batch_size': 8, 'dataset.n_test': 80})
'''


@pytest.mark.slow
@pytest.mark.parametrize('processes, devices', [(1, 1), (2, 1)])
def test_sigterm_while_it_is_judged(processes, devices, tmp_path):
  """Both stop at the same batch, and go on from there."""
  config = tmp_path / 'config.py'
  config.write_text(SLOW)
  workdir = tmp_path / 'run'
  with started(config, workdir, processes, devices) as run:
    end = time.monotonic() + 120
    while sum('a batch is read' in s for s in list(run.said[-1])) < 3:
      assert time.monotonic() < end, run.log()
      time.sleep(0.1)
    run.processes[-1].send_signal(signal.SIGTERM)
    assert run.codes() == [0] * processes, run.log()
    said = [''.join(lines) for lines in run.said]
  kept = {
      re.search(r'while judging step 4: (\d+) batches', text)[1]
      for text in said
  }
  assert len(kept) == 1, said
  assert (workdir / 'evaluation.npz').exists()
  with started(config, workdir, processes, devices) as run:
    assert run.codes() == [0] * processes, run.log()
    assert f'Going on after {kept.pop()} batches' in run.log()
  assert results(workdir)['step'] == 4
  assert not (workdir / 'evaluation.npz').exists()
