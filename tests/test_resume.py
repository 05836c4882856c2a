"""A run that was stopped goes on as if it had not been (law 6)."""

import functools
import json
import re
import signal
import time

import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from flax_enn.training import load_config, train_and_evaluate
from tests import processes, slow, tiny


def results(workdir):
  return (workdir / 'results.json').read_bytes()


# A constant rate: the cosine knows where the run was to end.
CONSTANT = {'optimizer.schedule': {'name': 'constant'}}


@pytest.fixture(
    scope='module',
    # What all runs below have; or batch statistics, members, bootstrapping and
    # the rest as well.
    params=['epinet', slow('ensemble')],
)
def whole(request, tmp_path_factory):
  """A config and the workdir of its run from start to end."""
  config = getattr(tiny, request.param)(**CONSTANT)
  workdir = tmp_path_factory.mktemp('whole')
  train_and_evaluate(config, workdir)
  return config, workdir


def check_continues(config, workdir, reference):
  train_and_evaluate(config, workdir)
  assert results(workdir) == results(reference)
  state, step = tiny.last_state(config, workdir)
  assert (state, step) == tiny.last_state(config, reference)
  assert step == config.num_steps


@pytest.mark.slow
def test_a_run_made_longer_goes_on(whole, tmp_path):
  config, reference = whole
  short = tiny.changed(config, {'num_steps': 2})
  assert train_and_evaluate(short, tmp_path)['step'] == 2
  assert tiny.last_state(short, tmp_path)[1] == 2
  check_continues(config, tmp_path, reference)


@pytest.mark.slow
def test_a_finished_run_is_evaluated_again_and_not_trained(whole):
  config, workdir = whole
  before, saved = results(workdir), tiny.files(workdir / 'checkpoints')
  (workdir / 'results.json').unlink()
  train_and_evaluate(config, workdir)
  assert results(workdir) == before
  assert tiny.files(workdir / 'checkpoints') == saved


# From here on processes are killed or asked to stop.

STEPS, EVERY, BATCH = 24, 12, 16
CONFIG = f'''
from tests import tiny

def get_config():
  return tiny.epinet(**{{
      'num_steps': {STEPS},
      'batch_size': {BATCH},
      'checkpoint.every': 2,
      'dataset.name': 'tests.processes:Gated',
      'dataset.n_test': {10 * BATCH},
      'dataset.read_ahead': 0,
  }})
'''
CODE_IF_PREEMPTED = 75
KILL, TERM = signal.SIGKILL, signal.SIGTERM
# How many processes, what they are doing when they get which signal, and how
# often the run is evaluated before its end.
HALF_WAY = ['training', 'saving', 'evaluating', 'training']
AT_THE_END = ['saving', 'training', 'evaluating', 'evaluating']
CASES = [
    # What SIGTERM has kept of an evaluation outlives a kill.
    (1, AT_THE_END, [KILL, KILL, TERM, KILL], 0),
    (2, ['training', 'evaluating'], [TERM] * 2, EVERY),
    pytest.param(2, HALF_WAY, [KILL] * 4, EVERY, marks=pytest.mark.long),
]


def _name(value):
  """In the name of a case: `2-training,evaluating-SIGTERM-12`."""
  if not isinstance(value, list):
    return str(value)
  names = [getattr(each, 'name', each) for each in value]
  return names[0] if len(set(names)) == 1 else ','.join(names)


@pytest.fixture(scope='module')
def config_file(tmp_path_factory):
  path = tmp_path_factory.mktemp('config') / 'config.py'
  path.write_text(CONFIG)
  return path


@pytest.fixture
def gates(tmp_path, monkeypatch):
  """The folder where gates are closed."""
  path = tmp_path / 'gates'
  path.mkdir()
  monkeypatch.setenv(processes.GATES, str(path))
  return path


@pytest.fixture(scope='module')
def short(config_file, tmp_path_factory):
  """A config of four steps and the workdir of its run, here."""
  config = tiny.changed(load_config(str(config_file)), {'num_steps': 4})
  workdir = tmp_path_factory.mktemp('short')
  train_and_evaluate(config, workdir)
  return config, workdir


class Stopped(MemoryError):
  """What a run is stopped with, and nothing saved."""


class Failing(processes.Gated):
  """Two moons that fill the memory after so many examples."""

  left = 1000

  def augment(self, x, rng):
    Failing.left -= 1
    if Failing.left < 0:
      raise Stopped
    return super().augment(x, rng)


@pytest.mark.slow
def test_a_run_that_broke_off_ends_with_the_same_bits(
    short, tmp_path, monkeypatch
):
  config, reference = short
  config = tiny.changed(config, {'dataset.name': f'{__name__}:Failing'})
  # Of which three steps are made: what was read before is trained on.
  monkeypatch.setattr(Failing, 'left', 3 * BATCH)
  with pytest.raises(Stopped):
    train_and_evaluate(config, tmp_path)
  assert tiny.last_state(config, tmp_path)[1] == 2
  assert not (tmp_path / 'results.json').exists()
  monkeypatch.setattr(Failing, 'left', 1000)
  check_continues(config, tmp_path, reference)


@pytest.fixture(scope='module')
def uninterrupted(config_file, tmp_path_factory):
  """Number of processes -> the workdir of a run from start to end."""

  @functools.cache
  def workdir(number):
    path = tmp_path_factory.mktemp('uninterrupted')
    said = processes.finish(config_file, path, number, 2)
    # The command line prints the table and the number of parameters.
    assert 'enn/base' in said[0] and 'Trained parameters' in said[0]
    return path

  return workdir


@pytest.mark.slow
def test_what_sigterm_has_saved_ends_with_the_same_bits(
    short, config_file, gates, tmp_path
):
  """One process stops in its evaluation, another goes on."""
  config, reference = short
  workdir = tmp_path / 'run'
  gate = Gate(gates, 'evaluating', BATCH, 4)
  flags = [
      f'--config.num_steps={config.num_steps}',
      f'--preemption_exit_code={CODE_IF_PREEMPTED}',
  ]
  with processes.started(config_file, workdir, 1, 8, *flags) as run:
    run.wait_for('evaluating', gate.is_reached)
    run.processes[0].send_signal(TERM)
    gate.open_slowly(run)
    assert run.codes() == [CODE_IF_PREEMPTED], run.log()
  gate.open()
  assert check_stopped('evaluating', [''.join(run.said[0])], workdir)
  assert processes.saved_steps(workdir) == [2, 4]
  assert not (workdir / 'results.json').exists()
  check_continues(config, workdir, reference)
  assert not partial(workdir).exists()


@pytest.mark.slow
@pytest.mark.parametrize('number, phases, signals, every', CASES, ids=_name)
def test_the_same_command_ends_with_the_same_bits(
    number, phases, signals, every, config_file, uninterrupted, gates, tmp_path
):
  """Whatever it was doing; alone, or as one of two; with two devices each."""
  workdir = tmp_path / 'run'
  command = [
      config_file, workdir, number, 2, f'--config.eval.every={every}',
      f'--preemption_exit_code={CODE_IF_PREEMPTED}',
  ]  # fmt: skip
  kept = None  # batches of an evaluation that was asked to stop
  for i, (asked, phase) in enumerate(zip(signals, phases)):
    # In training two batches are read ahead: 2 or 3 steps are done each time.
    gate = Gate(gates, phase, BATCH // number, 4 + i % 2)
    with processes.started(*command) as run:
      if phase == 'saving':
        run.wait_for('a save', lambda: is_saving(run, workdir), pause=0.001)
      else:
        run.wait_for(phase, gate.is_reached)
      if asked == KILL:
        run.end()
      else:
        run.processes[i % number].send_signal(TERM)  # it may be any of them
        gate.open_slowly(run)
      codes = {KILL: -KILL, TERM: CODE_IF_PREEMPTED}
      assert run.codes() == [codes[asked]] * number, run.log()
    gate.open()
    said = [''.join(lines) for lines in run.said]
    check_kept(kept, said)
    assert not (workdir / 'results.json').exists()
    if asked == TERM:
      kept = check_stopped(phase, said, workdir)
    elif phase != 'evaluating':
      kept = None
  check_kept(kept, processes.finish(*command))
  reference = uninterrupted(number)
  assert results(workdir) == results(reference)
  assert not partial(workdir).exists()
  # Each step is in the curves, and each evaluation that was asked for.
  found, expected = curves(workdir), curves(reference)
  assert found['loss'] == expected['loss']
  evaluated = set(range(every, STEPS, every) if every else ()) | {STEPS}
  for name in ('base', 'enn'):
    nll = found[f'test_{name}/nll']
    assert set(nll) == evaluated
    assert nll[STEPS] == expected[f'test_{name}/nll'][STEPS]
  scores = json.loads((workdir / 'checkpoints' / 'scores.json').read_text())
  assert str(STEPS) in scores


class Gate:
  """Lets a run read some batches of a phase's split, then no more."""

  def __init__(self, folder, phase, rows, batches):
    self._path = folder / ('test' if phase == 'evaluating' else 'train')
    self._rows = rows  # of a batch, in each process
    self._set(rows * (STEPS // 2 if phase == 'saving' else batches))

  def _set(self, limit):
    self._limit = limit
    new = self._path.with_suffix('.new')
    new.write_text(str(limit))
    new.rename(self._path)

  def is_reached(self):
    return self._path.with_suffix('.waiting').exists()

  def open_slowly(self, run):
    """A batch at a time: two processes need a second to agree to stop."""
    end = time.monotonic() + 60
    while run.alive() and time.monotonic() < end:
      time.sleep(0.3)
      self._set(self._limit + self._rows)

  def open(self):
    for path in (self._path, self._path.with_suffix('.waiting')):
      path.unlink(missing_ok=True)


def is_saving(run, workdir):
  """Whether a save has begun, and has not ended, since the run has started."""
  if 'loss=' not in ''.join(run.said[0]):
    return False  # what is there may be what a kill has left
  names = [path.name for path in (workdir / 'checkpoints').iterdir()]
  return any(re.match(r'\d+\D', name) for name in names)


def check_stopped(phase, said, workdir):
  """All stopped at one place, and saved it; how much of an evaluation."""
  (where,) = {re.search(r'Asked to stop(.*?); the', text)[1] for text in said}
  assert 'Traceback' not in ''.join(said)
  if phase != 'evaluating':
    step = int(re.fullmatch(r' after step (\d+)', where)[1])
    assert step in processes.saved_steps(workdir)
    return None
  assert partial(workdir).exists()
  return re.fullmatch(r'; (\d+) batches of an evaluation .*', where)[1]


def partial(workdir):
  """Where a run keeps what it has of an evaluation."""
  return workdir / 'evaluation-test.npz'


def check_kept(kept, said):
  if kept is not None:
    assert f'Going on after {kept} batches' in said[0]


def curves(workdir):
  """Step -> value, of every curve."""
  loaded = event_accumulator.EventAccumulator(
      str(workdir), size_guidance={'tensors': 0}  # all of them
  ).Reload()
  return {
      tag: {
          event.step: float(make_ndarray(event.tensor_proto))
          for event in loaded.Tensors(tag)
      }
      for tag in loaded.Tags()['tensors']
  }
