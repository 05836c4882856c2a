"""Kills and signals at any moment of a run: it ends as if there had been none.

FLAX_ENN_KILLS and FLAX_ENN_SIGNALS are their numbers, FLAX_ENN_SEED says when
they come. A run is started again in its folder until it ends by itself; another
follows in a new folder, until there were as many.
"""

import os
import random
import signal
import time

import pytest

from flax_enn.training import load_config
from tests import tiny

CONFIG = '''
from tests import tiny

def get_config():
  return tiny.epinet(
      num_steps=3000,
      log_every=100,
      **{'checkpoint.every': 100, 'eval.every': 1000, 'dataset.n_test': 2400},
  )
'''
CODE_IF_PREEMPTED = 75
# Kind -> variable, how many in the short form, and what is sent.
KINDS = {
    'kills': ('FLAX_ENN_KILLS', 1, [signal.SIGKILL]),
    'signals': ('FLAX_ENN_SIGNALS', 1, [signal.SIGTERM, signal.SIGINT]),
}


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return path


def start(config_file, workdir):
  flags = (f'--config={config_file}', f'--workdir={workdir}')
  code = f'--preemption_exit_code={CODE_IF_PREEMPTED}'
  return tiny.python(tiny.ROOT / 'train.py', *flags, code)


def ended(config_file, workdir):
  """What a run has left: its results, and its last state."""
  results = (workdir / 'results.json').read_bytes()
  return results, tiny.last_state(load_config(str(config_file)), workdir)


@pytest.fixture(scope='module')
def alone(config_file, tmp_path_factory):
  """What a run leaves that nothing happens to, and its seconds."""
  workdir = tmp_path_factory.mktemp('alone')
  began = time.monotonic()
  with start(config_file, workdir) as run:
    said, _ = run.communicate()
  assert run.returncode == 0, said
  return ended(config_file, workdir), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_nothing_is_lost(kind, config_file, alone, tmp_path):
  variable, few, signals = KINDS[kind]
  rng = random.Random(int(os.environ.get('FLAX_ENN_SEED', 0)))
  expected, seconds = alone
  sent, number = 0, int(os.environ.get(variable, few))
  runs = 0
  while sent < number:
    workdir = tmp_path / f'run_{runs}'
    runs += 1
    while not (workdir / 'results.json').exists():
      asked = None
      with start(config_file, workdir) as run:
        if sent < number:
          # In the first two seconds the flags may not be parsed.
          time.sleep(rng.uniform(2, seconds))
          if run.poll() is None:
            asked = rng.choice(signals)
            run.send_signal(asked)
            sent += 1
        said, _ = run.communicate()
      assert 'Traceback' not in said, said
      if asked is None or (workdir / 'results.json').exists():
        assert (workdir / 'results.json').exists(), said
        allowed = {0, asked and -asked}  # it may have been about to exit
      else:
        allowed = {-asked if asked == signal.SIGKILL else CODE_IF_PREEMPTED}
      assert run.returncode in allowed, (asked, run.returncode, said)
    assert ended(config_file, workdir) == expected, sent
  print(f'{sent} {kind} of {runs} runs')
