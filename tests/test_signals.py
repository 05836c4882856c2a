"""Who trains from Python keeps signals and exceptions to herself."""

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


@pytest.mark.parametrize(
    'where', ['training', pytest.param('evaluation', marks=pytest.mark.slow)]
)
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
