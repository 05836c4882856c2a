"""A run lives in a bucket as in a folder, and the same faults cost it nothing.

TensorFlow is not in these tests, since its way to a bucket leads to Google's.
"""

from concurrent import futures
import json
import os
import signal
import threading

from etils import epath
import numpy as np
import pytest

from flax_enn import lock_file
from flax_enn.inference import Predictor
from flax_enn.skipped import Skipped
from flax_enn.workdir_lock import WorkdirInUseError, WorkdirLock
from tests import fake_bucket, processes, tiny

pytestmark = pytest.mark.slow

# The bucket has to delete checkpoints, too.
CONFIG = '''
from tests import tiny

def get_config():
  return tiny.epinet(num_steps=6, **{'checkpoint.keep': 1})
'''
# The curves are what TensorFlow writes in a bucket: here they are in a folder.
PATCH = '''
from etils import epath
from tests import fake_bucket
fake_bucket.register()

from flax_enn import metric_writers
write = metric_writers._curves
metric_writers._curves = lambda *_: write(epath.Path({folder!r}), False)
'''
TRAIN = 'import runpy; runpy.run_path({train!r}, run_name="__main__")'
SWEEP = '''
from pathlib import Path
import sys
from absl import app
sys.path.insert(0, {launch!r})
import sweep

sweep.TRAIN = Path({script!r})
app.run(sweep.main)
'''
CODE_IF_PREEMPTED = 75


@pytest.fixture(scope='module')
def served():
  """A bucket that is known to this process and to those that it starts."""
  with fake_bucket.Bucket() as bucket, pytest.MonkeyPatch.context() as patch:
    for name, value in bucket.environment.items():
      patch.setenv(name, value)
    # What epath has found out before it knew the environment.
    patch.setattr('etils.epath.gpath._is_tf_installed', lambda: False)
    fake_bucket.register()
    yield bucket


@pytest.fixture
def bucket(served):
  """The same, in which nothing happens when something is written."""
  yield served
  served.before_write = lambda name: None


@pytest.fixture(scope='module')
def start(served, tmp_path_factory):
  """Starts train.py with a workdir."""
  folder = tmp_path_factory.mktemp('bucket')
  config = folder / 'config.py'
  config.write_text(CONFIG)
  patch = PATCH.format(folder=str(folder / 'curves'))
  code = f'--preemption_exit_code={CODE_IF_PREEMPTED}'
  return lambda workdir: processes.started(
      config, workdir, 1, 1, code, patch=patch
  )


@pytest.fixture(scope='module')
def folder(start, tmp_path_factory):
  """The workdir of a run that has ended, in no bucket."""
  workdir = tmp_path_factory.mktemp('run')
  run_to_the_end(start, workdir)
  return workdir


@pytest.fixture(scope='module')
def pair(served, start):
  """What a run in `gs://bucket/pair` and a second one have said.

  The second comes while the first one saves.
  """
  reached, go = threading.Event(), threading.Event()

  def wait(name):
    if name == 'pair/checkpoints/4/commit_success.txt':
      reached.set()
      go.wait(60)

  served.before_write = wait
  with start('gs://bucket/pair') as first:
    first.wait_for('a save', reached.is_set)
    with start('gs://bucket/pair') as second:
      codes = second.codes()
    assert first.alive(), first.log()
    go.set()
    codes += first.codes()
  served.before_write = lambda name: None
  assert codes == [1, 0], f'{second.log()}\n{first.log()}'
  return first, second


def run_to_the_end(start, workdir):
  """Lets it run; what it says."""
  with start(workdir) as run:
    assert run.codes() == [0], run.log()
  return run.log()


def results(bucket, run):
  return bucket.below(run)[f'{run}/results.json']


def test_it_ends_as_in_a_folder(bucket, folder, pair):
  assert results(bucket, 'pair') == (folder / 'results.json').read_bytes()
  saved = {name.split('/')[2] for name in bucket.below('pair/checkpoints')}
  assert saved == {'6', 'scores.json'}
  x = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
  here, there = map(Predictor.load, (folder, 'gs://bucket/pair'))
  np.testing.assert_array_equal(there.probs(x), here.probs(x))


def test_a_second_run_is_told_who_has_it(pair):
  first, second = pair
  said = second.log()
  assert f'in use by process {first.processes[0].pid} on ' in said, said
  assert 'Traceback' not in said, said


def test_a_kill_in_the_middle_of_a_save(bucket, start, folder):
  marker = 'killed/checkpoints/4/commit_success.txt'

  def kill(name):
    if name == marker:
      run.processes[0].kill()
      raise fake_bucket.Refused(503)

  bucket.before_write = kill
  with start('gs://bucket/killed') as run:
    assert run.codes() == [-signal.SIGKILL], run.log()
  torn = bucket.below('killed/checkpoints/4')
  assert torn and marker not in torn
  assert 'killed/lock.json' in bucket.below('killed')
  bucket.before_write = lambda name: None
  said = run_to_the_end(start, 'gs://bucket/killed')
  assert f'process {run.processes[0].pid} on ' in said and 'is gone' in said
  assert 'Going on from step 2 of gs://bucket/killed' in said, said
  assert results(bucket, 'killed') == (folder / 'results.json').read_bytes()
  assert 'killed/lock.json' not in bucket.below('killed')


def test_a_request_to_stop(bucket, start, folder):

  def ask(name):
    if name == 'stopped/checkpoints/2/commit_success.txt':
      run.processes[0].terminate()

  bucket.before_write = ask
  with start('gs://bucket/stopped') as run:
    assert run.codes() == [CODE_IF_PREEMPTED], run.log()
  assert 'stopped/lock.json' not in bucket.below('stopped')
  assert 'Going on from step' in run_to_the_end(start, 'gs://bucket/stopped')
  assert results(bucket, 'stopped') == (folder / 'results.json').read_bytes()


def test_a_finished_checkpoint_without_its_marker_stays(bucket, start, pair):
  for name, content in bucket.below('pair').items():
    bucket.write(f'unmarked/{name.removeprefix("pair/")}', content, {})
  bucket.remove('unmarked/checkpoints/6/commit_success.txt', {})
  before = bucket.below('unmarked')
  with start('gs://bucket/unmarked') as run:
    assert run.codes() == [2], run.log()
  assert 'checkpoints [6] in gs://bucket/unmarked/checkpoints' in run.log()
  assert 'have no commit marker' in run.log()
  assert 'Traceback' not in run.log()
  assert bucket.below('unmarked') == before


def test_of_two_that_come_at_once_one_has_the_lock(bucket):
  looked, taken = threading.Event(), threading.Event()

  def wait(name):
    if name == 'once/lock.json' and not looked.is_set():
      looked.set()
      taken.wait(60)

  bucket.before_write = wait
  with futures.ThreadPoolExecutor() as threads:
    late = threads.submit(WorkdirLock, 'gs://bucket/once')
    assert looked.wait(60)
    with WorkdirLock('gs://bucket/once'):
      taken.set()
      with pytest.raises(WorkdirInUseError, match=f'process {os.getpid()} on'):
        late.result()
  assert not bucket.below('once')


def test_a_live_and_a_silent_owner_elsewhere(bucket, monkeypatch):
  monkeypatch.setattr('flax_enn.workdir_lock._link', lambda path: 'container')
  with WorkdirLock('gs://bucket/far', every=0.1):
    content = bucket.below('far')['far/lock.json']
    monkeypatch.setattr('flax_enn.workdir_lock._link', lambda path: 'other')
    with pytest.raises(WorkdirInUseError, match='is in use by process'):
      WorkdirLock('gs://bucket/far', wait=60)
  bucket.write('far/lock.json', content, {})
  with WorkdirLock('gs://bucket/far', wait=1, every=0.1) as lock:
    ours = json.loads(bucket.below('far')['far/lock.json'])
    assert ours['token'] != json.loads(content)['token']
    bucket.write('far/lock.json', content, {})
    with pytest.raises(WorkdirInUseError, match='taken over by process'):
      while True:
        lock.check()
  assert bucket.below('far') == {'far/lock.json': content}  # not ours


def test_a_bucket_that_cannot_be_reached_may_be_tried_again(
    bucket, monkeypatch
):
  monkeypatch.setitem(lock_file._RETRIES, 'initial_delay', '10ms')

  def refuse(name):
    raise fake_bucket.Refused(503)

  bucket.before_write = refuse
  with pytest.raises(OSError, match='gs://bucket/down cannot be reached'):
    WorkdirLock('gs://bucket/down')
  bucket.before_write = lambda name: None
  with WorkdirLock('gs://bucket/down'):
    pass


def test_a_sweep(bucket, tmp_path):
  config, script = tmp_path / 'config.py', tmp_path / 'train.py'
  config.write_text(f"{CONFIG}\ndef sweep():\n  return [{{'seed': 1}}]\n")
  patch = PATCH.format(folder=str(tmp_path / 'curves'))
  script.write_text(patch + TRAIN.format(train=str(tiny.ROOT / 'train.py')))
  sweep = SWEEP.format(launch=str(tiny.ROOT / 'launch'), script=str(script))
  with tiny.python(
      '-c', patch + sweep, f'--config={config}',
      '--workdir=gs://bucket/runs/sweep', cwd=tmp_path,
  ) as process:  # fmt: skip
    said, _ = process.communicate()
  log = tmp_path / 'sweep' / 'seed=1' / 'train.log'
  assert process.returncode == 0, f'{said}\n{log.read_text()}'
  found = bucket.below('runs/sweep')
  for name in ('sweep.csv', 'sweep.png', 'seed=1/results.json'):
    assert f'runs/sweep/{name}' in found
  assert 'See results.json' in log.read_text()


def test_a_count_survives_where_the_name_of_the_run_is_a_pattern(bucket):
  folder = epath.Path('gs://bucket/hiddens=[5]/skipped/train')
  Skipped(folder)[3] = 'truncated'
  assert Skipped(folder) == {3: 'truncated'}
