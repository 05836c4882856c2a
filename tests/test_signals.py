"""Who trains from Python keeps signals and exceptions to herself."""

import re
import signal
import time

import pytest

from flax_enn.training import train_and_evaluate
from tests import tiny

SCRIPT = """
import signal

def handlers():
  return {{s: signal.getsignal(s) for s in signal.valid_signals()}}

before = handlers()
from flax_enn.training import train_and_evaluate
from tests import tiny
assert handlers() == before
train_and_evaluate(tiny.epinet(num_steps=1), {workdir!r})
assert handlers() == before
print('the same')
"""


@pytest.mark.slow
def test_a_library_installs_no_handler(tmp_path):
  code = SCRIPT.format(workdir=str(tmp_path / 'run'))
  with tiny.python('-c', code) as process:
    said, _ = process.communicate()
  assert process.returncode == 0 and 'the same' in said.splitlines(), said


class TimedOut(BaseException):
  """What a caller ends a call with, as `KeyboardInterrupt` does."""


@pytest.fixture
def alarm():
  """SIGALRM raises `TimedOut`."""

  def handler(*_):
    raise TimedOut

  before = signal.signal(signal.SIGALRM, handler)
  yield
  signal.setitimer(signal.ITIMER_REAL, 0)
  signal.signal(signal.SIGALRM, before)


def interrupt(*_):
  signal.setitimer(signal.ITIMER_REAL, 0.01)
  time.sleep(60)


def interrupt_at_step_3(step):
  if step == 3:
    interrupt()


@pytest.mark.slow
@pytest.mark.parametrize('where', ['training', 'evaluation'])
def test_an_alarm_of_the_caller_ends_the_run(where, alarm, tmp_path):
  """The checkpoint before it is intact, and the run goes on from there."""
  config = tiny.epinet()
  expected = train_and_evaluate(config, tmp_path / 'whole')
  asked, workdir = [], tmp_path / 'run'

  def interrupt_in_evaluation():
    asked.append(None)
    return len(asked) == 5 and interrupt()  # after four steps

  options = {'hooks': [interrupt_at_step_3]}
  if where == 'evaluation':
    options = {'stop': interrupt_in_evaluation}
  with pytest.raises(TimedOut):
    train_and_evaluate(config, workdir, **options)
  assert not (workdir / 'results.json').exists()
  _, step = tiny.last_state(config, workdir)
  assert step == (2 if where == 'training' else 4)
  assert train_and_evaluate(config, workdir) == expected
  assert tiny.last_state(config, workdir) == tiny.last_state(
      config, tmp_path / 'whole'
  )


LONG = '''
from tests import tiny

def get_config():
  return tiny.epinet(num_steps=10**6, log_every=5)
'''


@pytest.fixture
def started(tmp_path):
  """A run of train.py that would take for ever, and its workdir."""
  (tmp_path / 'config.py').write_text(LONG)
  flags = (f'--config={tmp_path}/config.py', f'--workdir={tmp_path}/run')
  with tiny.python(
      tiny.ROOT / 'train.py', *flags, '--preemption_exit_code=75'
  ) as process:
    yield process, tmp_path / 'run'
    process.kill()


def wait_for(text, process):
  said = ''
  while text not in said:
    line = process.stdout.readline()
    assert line, said
    said += line


def check_saved(process, workdir):
  said, _ = process.communicate(timeout=120)
  assert process.returncode == 75, said
  (step,) = re.findall(r'Asked to stop after step (\d+)', said)
  assert (workdir / 'checkpoints' / step).is_dir()
  assert 'Traceback' not in said and not (workdir / 'lock.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_asked_to_stop_early_saves(started, number):
  """While it imports, initialises or compiles: as soon as it has a state."""
  process, workdir = started
  time.sleep(2)
  process.send_signal(number)
  check_saved(process, workdir)


@pytest.mark.slow
def test_ctrl_c_saves_and_stops(started):
  process, workdir = started
  wait_for('[10] ', process)
  process.send_signal(signal.SIGINT)
  check_saved(process, workdir)


@pytest.mark.slow
def test_ctrl_c_twice_ends_at_once(started):
  process, _ = started
  wait_for('[10] ', process)
  process.send_signal(signal.SIGSTOP)  # so that both come before the next step
  process.send_signal(signal.SIGINT)
  time.sleep(0.1)
  process.send_signal(signal.SIGCONT)
  wait_for('Ctrl-C again', process)
  process.send_signal(signal.SIGINT)
  process.communicate(timeout=60)
  assert process.returncode != 0
