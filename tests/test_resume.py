"""A run that was stopped goes on as if it had not been (law 6)."""

from pathlib import Path
import random
import re
import signal

import pytest

from flax_enn.training import loop, train_and_evaluate
from tests import tiny


class Stopped(Exception):
  """What a run is stopped with."""


@pytest.fixture(scope='module', params=['epinet', 'ensemble'])
def whole(request, tmp_path_factory):
  """A config and the workdir of its run from start to end."""
  config = getattr(tiny, request.param)()
  workdir = tmp_path_factory.mktemp('whole')
  train_and_evaluate(config, workdir)
  return config, workdir


def results(workdir):
  return (workdir / 'results.json').read_bytes()


def stop_after(monkeypatch, step):
  """Lets the next run raise after a step, like a full disk or Ctrl-C."""

  def stop(now):
    if now == step:
      raise Stopped

  monkeypatch.setattr(loop.writers, 'create_hooks', lambda *_: [stop])


def test_a_stopped_run_ends_with_the_same_bits(whole, tmp_path, monkeypatch):
  config, reference = whole
  with monkeypatch.context() as patch, pytest.raises(Stopped):
    stop_after(patch, config.checkpoint.every + 1)
    train_and_evaluate(config, tmp_path)
  assert not (tmp_path / 'results.json').exists()
  _check_continues(config, tmp_path, reference)


def _check_continues(config, workdir, reference):
  train_and_evaluate(config, workdir)
  assert results(workdir) == results(reference)
  state, step = tiny.last_state(config, workdir)
  assert (state, step) == tiny.last_state(config, reference)
  assert step == config.num_steps


def test_a_finished_run_is_judged_again_and_not_trained(whole):
  config, workdir = whole
  before, saved = results(workdir), tiny.files(workdir / 'checkpoints')
  (workdir / 'results.json').unlink()
  train_and_evaluate(config, workdir)
  assert results(workdir) == before
  assert tiny.files(workdir / 'checkpoints') == saved


def test_a_run_made_longer_goes_on(tmp_path):
  # A constant rate: the cosine knows where the run was to end.
  config = tiny.epinet(**{'optimizer.schedule': {'name': 'constant'}})
  reference, workdir = tmp_path / 'reference', tmp_path / 'run'
  train_and_evaluate(config, reference)
  short = tiny.changed(config, {'num_steps': 2})
  assert train_and_evaluate(short, workdir)['step'] == 2
  assert tiny.last_state(short, workdir)[1] == 2
  _check_continues(config, workdir, reference)


# From here on processes are killed, which have one device each.

STEPS = 40
CONFIG = f'''
from tests import tiny

def get_config():
  return tiny.epinet(num_steps={STEPS}, **{{'eval.every': {STEPS // 2}}})
'''


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return path


@pytest.fixture(scope='module')
def uninterrupted(config_file, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('uninterrupted')
  assert train(config_file, workdir) == 0
  return results(workdir)


def train(config_file: Path, workdir: Path, kill_at: int | None = None) -> int:
  """Runs train.py, kills it once it has logged a step; its exit code."""
  script = tiny.ROOT / 'train.py'
  flags = [f'--config={config_file}', f'--workdir={workdir}']
  with tiny.python(script, *flags) as process:
    log = []
    for line in process.stdout:
      log.append(line)
      logged = re.search(r'\] \[(\d+)\] .*loss=', line)
      if logged and kill_at is not None and int(logged[1]) >= kill_at:
        process.send_signal(signal.SIGKILL)
        break
    code = process.wait()
  assert code in (0, -signal.SIGKILL), ''.join(log)
  return code


def _check_kills(config_file, workdir, kills, expected):
  for step in kills:
    assert train(config_file, workdir, kill_at=step) == -signal.SIGKILL
    assert not (workdir / 'results.json').exists()
  assert train(config_file, workdir) == 0
  assert results(workdir) == expected


def test_sigkill(config_file, uninterrupted, tmp_path):
  # Before the evaluation half way, which no race can overtake.
  step = random.Random(2).randrange(1, STEPS // 2)
  _check_kills(config_file, tmp_path, [step], uninterrupted)


@pytest.mark.slow
def test_ten_sigkills_in_one_run(config_file, uninterrupted, tmp_path):
  draw = random.Random(3)
  kills = sorted(draw.randrange(1, STEPS // 2) for _ in range(10))
  _check_kills(config_file, tmp_path, kills, uninterrupted)
