"""A run owns its workdir: a second one is told so, a dead one is followed."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flax_enn import lock_file
from flax_enn.training import train_and_evaluate
from flax_enn.workdir_lock import NAME, WorkdirInUseError, WorkdirLock
from tests import tiny

HOLD = '''
import sys, time
from flax_enn.workdir_lock import WorkdirLock
lock = WorkdirLock(sys.argv[1])
print('held', flush=True)
time.sleep(60)
'''


def content(workdir):
  return json.loads((workdir / NAME).read_text())


def written(workdir, **changes):
  """Leaves the lock of another run, as if it were written just now."""
  with WorkdirLock(workdir):
    found = content(workdir)
  (workdir / NAME).write_text(json.dumps({**found, **changes}))


def test_the_lock_is_held_and_given_back(tmp_path):
  workdir = tmp_path / 'a' / 'run'
  with WorkdirLock(workdir):
    assert content(workdir)['pid'] == os.getpid()
    with pytest.raises(WorkdirInUseError, match=rf'process {os.getpid()} on '):
      WorkdirLock(workdir)
  assert not workdir.exists()  # as it was found
  with WorkdirLock(workdir):
    pass


def test_an_owner_that_was_killed_is_followed_at_once(tmp_path, caplog):
  with subprocess.Popen(
      [sys.executable, '-c', HOLD, str(tmp_path)],
      env=tiny.environment(), stdout=subprocess.PIPE, text=True,
  ) as process:  # fmt: skip
    assert process.stdout.readline() == 'held\n'
    with pytest.raises(WorkdirInUseError, match=f'process {process.pid} on'):
      WorkdirLock(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
  start = time.monotonic()
  with WorkdirLock(tmp_path):
    assert time.monotonic() - start < 5
    assert content(tmp_path)['pid'] == os.getpid()
  assert f'process {process.pid}' in caplog.text and 'is gone' in caplog.text


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
  written(tmp_path, started='1')
  with WorkdirLock(tmp_path):
    assert content(tmp_path)['started'] != '1'


@pytest.mark.parametrize(
    'elsewhere',
    [{'boot_id': 'other', 'host': 'far'}, {'pid_namespace': 'pid:[1]'}],
)
def test_a_silent_owner_elsewhere_is_followed_after_a_while(
    tmp_path, caplog, elsewhere
):
  written(tmp_path, **elsewhere)
  start = time.monotonic()
  with WorkdirLock(tmp_path, wait=1):
    assert time.monotonic() - start >= 1
    assert 'boot_id' in content(tmp_path)
  assert 'no sign of life for 1 s' in caplog.text


def test_a_live_owner_elsewhere_ends_the_second(tmp_path, monkeypatch):
  with WorkdirLock(tmp_path, every=0.1):
    monkeypatch.setattr(
        'flax_enn.workdir_lock._link', lambda path: 'of another container'
    )
    with pytest.raises(WorkdirInUseError, match='is in use by process'):
      WorkdirLock(tmp_path, wait=20)


@pytest.mark.parametrize('text', ['', '[]', 'null', '{"token": ', '\0'])
def test_a_lock_that_cannot_be_read_has_a_silent_owner(tmp_path, text):
  (tmp_path / NAME).write_text(text)
  with WorkdirLock(tmp_path, wait=0.5):
    assert content(tmp_path)['pid'] == os.getpid()


def test_who_has_lost_it_writes_nothing_more(tmp_path):
  with WorkdirLock(tmp_path, every=0.05) as lock:
    lock.check()
    other = {**content(tmp_path), 'token': 'other', 'host': 'far', 'pid': 7}
    (tmp_path / NAME).write_text(json.dumps(other))
    end = time.monotonic() + 20
    with pytest.raises(WorkdirInUseError, match='taken over by process 7 on f'):
      while time.monotonic() < end:
        lock.check()
        time.sleep(0.01)
  assert content(tmp_path) == other  # it is not ours to give back


def test_a_passing_error_costs_no_lock(tmp_path, monkeypatch, caplog):
  read, errors = lock_file._File.read, iter([OSError('stale handle')])

  def fails_once(file):
    for error in errors:
      raise error
    return read(file)

  with WorkdirLock(tmp_path, every=0.05) as lock:
    monkeypatch.setattr(lock_file._File, 'read', fails_once)
    end = time.monotonic() + 20
    while content(tmp_path)['beat'] < 2 and time.monotonic() < end:
      lock.check()
  assert 'cannot be renewed: stale handle' in caplog.text


def test_a_second_run_writes_nothing(tmp_path):
  with WorkdirLock(tmp_path):
    before = tiny.files(tmp_path)
    with pytest.raises(WorkdirInUseError):
      train_and_evaluate(tiny.epinet(), tmp_path)
    found = tiny.files(tmp_path)
    assert found.keys() == before.keys() == {NAME}


def test_a_workdir_that_cannot_be_written_is_one_sentence(tmp_path):
  (tmp_path / 'file').touch()
  for folder in ('file', 'file/run'):
    with pytest.raises(ValueError, match=r'workdir is \S*file\S* which cannot'):
      WorkdirLock(tmp_path / folder)
