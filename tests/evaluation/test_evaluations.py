"""Several evaluations of a run: what they are, and that none is done twice."""

import dataclasses
import itertools
import json
import signal

import jax
import numpy as np
import pytest

from flax_enn.data import ArraySource, Dataset, Pixels
from flax_enn.likelihoods import Categorical
from flax_enn.model import run_keys
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.test_model import restored
from tests.test_resume import curves

MOONS = {'name': 'two_moons', 'n_train': 64, 'n_test': 40, 'seed': 7}
EVALS = {
    'far': {'dataset': {**MOONS, 'noise': 2.0}},
    'seen': {'split': 'train', 'num_indices': 3, 'tau': 2, 'chunk': 3},
    'held': {'dataset': {**MOONS, 'holdout': 0.5}, 'split': 'validation'},
    'hot': {'temperature': 5.0},
    'cold': {'base_temperature': 0.2},
}
FIELDS = {'eval.every': 2, 'seed': 5}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  config = tiny.epinet(evals=EVALS, **FIELDS)
  workdir = tmp_path_factory.mktemp('run')
  return config, workdir, train_and_evaluate(config, workdir)


@pytest.mark.slow
def test_results_are_keyed_by_name(run):
  _, workdir, returned = run
  written = json.loads((workdir / 'results.json').read_text())
  assert written == returned
  assert returned.keys() == {'step', 'test', *EVALS}
  for name in ('test', *EVALS):
    assert returned[name].keys() == {'base', 'enn'}
  found = curves(workdir)
  for name, model in itertools.product(EVALS, ('base', 'enn')):
    nll = found[f'{name}_{model}/nll']
    assert list(nll) == [2, 4]
    assert nll[4] == pytest.approx(returned[name][model]['nll'])
  assert not list(workdir.glob('evaluation-*'))
  scores = json.loads((workdir / 'checkpoints' / 'scores.json').read_text())
  own = returned['test']['enn']['nll']
  assert scores['4']['score'] == pytest.approx(own)


@pytest.mark.slow
def test_what_each_evaluation_changes(run, tmp_path):
  _, _, results = run
  own = results['test']
  alone = train_and_evaluate(tiny.epinet(**FIELDS), tmp_path)
  assert alone['test'] == own
  assert results['hot']['base'] == own['base']
  assert results['hot']['enn']['nll'] != own['enn']['nll']
  assert results['hot']['enn']['accuracy'] == pytest.approx(
      own['enn']['accuracy'], abs=0.1
  )
  assert results['cold']['enn'] == own['enn']
  assert results['cold']['base']['nll'] != own['base']['nll']
  for name in ('far', 'seen', 'held'):
    assert results[name] != own


@pytest.fixture(scope='module')
def trained(run):
  config, workdir, _ = run
  return restored(config, workdir)


@pytest.mark.slow
@pytest.mark.parametrize('name', EVALS)
def test_numbers_are_those_of_its_data(name, run, trained):
  """By hand: all examples at once, the indices that the entry asks for."""
  config, _, results = run
  entry = {**config.eval, **EVALS[name]}
  trainer, variables = trained
  evaluation = {e.name: e for e in trainer.evaluations}[name]
  source = evaluation.loader.source(evaluation.dataset, evaluation.split)
  size = {'far': 40, 'seen': 64, 'held': 32}.get(name, 24)
  assert len(source) == size
  elements = [source[i] for i in range(size)]
  x, y = (np.stack([e[key] for e in elements]) for key in 'xy')
  network = trainer.model.network
  key = run_keys(config.seed)['evaluation']
  indices = network.indexer.sample(key, entry['num_indices'])
  logits = np.stack([
      trainer.model.apply(variables, x, z).preds for z in indices
  ])
  probs = jax.nn.softmax(logits / entry['temperature'])
  nll = -np.log(probs.mean(0)[np.arange(size), y]).mean()
  assert results[name]['enn']['nll'] == pytest.approx(nll, rel=1e-4)


def arrays(folder, name, shift):
  rng = np.random.RandomState(shift)
  x = rng.normal(size=(48, 4, 4, 1)).astype(np.float32) + shift
  path = folder / f'{name}.npz'
  np.savez(
      path,
      x_train=x[:32], y_train=np.arange(32) % 3,
      x_test=x[32:], y_test=np.arange(16) % 3,
  )  # fmt: skip
  return {'name': 'arrays', 'path': str(path), 'standardize': True}


@dataclasses.dataclass(frozen=True)
class Grey(Dataset):
  """Images of bytes."""

  @property
  def input_spec(self):
    return jax.ShapeDtypeStruct((4, 4, 1), np.float32)

  @property
  def likelihood(self):
    return Categorical(3)

  @property
  def preprocess(self):
    return Pixels((4, 4, 1))

  def load(self, split):
    x = np.random.RandomState(0).randint(256, size=(16, 4, 4, 1))
    return ArraySource(x.astype(np.uint8), np.arange(16) % 3)


@pytest.mark.slow
def test_data_of_the_same_kind_are_preprocessed_as_in_training(tmp_path):
  """With the moments of training; of another kind, with their own."""
  trained, shifted = (
      arrays(tmp_path, name, shift) for name, shift in (('a', 1), ('b', 9))
  )
  bytes_ = {'name': f'{__name__}:Grey'}
  config = tiny.ensemble(
      dataset=trained,
      evals={'shifted': {'dataset': shifted}, 'grey': {'dataset': bytes_}},
  )
  trainer = tiny.built(config)
  own, other, same = trainer.evaluations  # in the order of their names
  assert own.spec.preprocess == same.spec.preprocess
  assert same.spec.preprocess == trainer.dataset.preprocess
  assert same.spec.preprocess != same.dataset.preprocess
  assert other.spec.preprocess == Pixels((4, 4, 1))
  batch = next(
      same.loader.eval_batches(same.dataset, 'test', same.spec, batch_size=16)
  )
  assert 6 < batch.x.mean() < 10  # 9 in the units of the training data
  results = train_and_evaluate(config, tmp_path / 'run')
  assert results.keys() == {'step', 'test', 'shifted', 'grey'}


def counting(asked, act):
  """A `stop` that acts when it is asked for the n-th time; and the count."""
  count = itertools.count(1)
  seen = []

  def stop():
    seen.append(next(count))
    return seen[-1] == asked and act()

  return stop, seen


# Steps 1 and 2, then at step 2 three batches of `test` and three of `more`, and
# the same again for the other half of the run; `stop` is asked after each.
TWICE = {'evals': {'more': {'split': 'test', 'temperature': 2.0}}, **FIELDS,
         'batch_size': 8, 'checkpoint.every': 0}  # fmt: skip


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  stop, seen = counting(0, bool)
  train_and_evaluate(tiny.epinet(**TWICE), workdir, stop=stop)
  assert len(seen) == 2 * (2 + 3 + 3)
  return workdir


def check_same(workdir, reference, rel=None):
  found, expected = (
      json.loads((folder / 'results.json').read_text())
      for folder in (workdir, reference)
  )
  if rel is None:
    assert found == expected
  for name in ('test', 'more'):
    for model, values in expected[name].items():
      assert found[name][model] == pytest.approx(values, rel=rel)
  assert not list(workdir.glob('evaluation-*'))
  scores = json.loads((workdir / 'checkpoints' / 'scores.json').read_text())
  assert set(scores) == {'2', '4'}
  times = ('steps_per_sec', 'uptime')
  assert curves(workdir).keys() == curves(reference).keys()
  for tag, values in curves(reference).items():
    if not any(time in tag for time in times):
      assert curves(workdir)[tag] == pytest.approx(values, rel=rel)


# 4 is in the first evaluation of step 2, 5 at its end; after 4, 2 is in the
# second one.
@pytest.mark.slow
@pytest.mark.parametrize('asked', [[4, 2], [5], [4, 2, 2, 4]])
def test_a_run_that_stops_in_an_evaluation_repeats_none(
    asked, whole, tmp_path
):
  config, done = tiny.epinet(**TWICE), 0
  for number in asked:
    stop, seen = counting(number, lambda: True)
    assert train_and_evaluate(config, tmp_path, stop=stop) is None
    done += len(seen)
    assert list(tmp_path.glob('evaluation-*'))
  stop, seen = counting(0, bool)
  train_and_evaluate(config, tmp_path, stop=stop)
  assert done + len(seen) == 2 * (2 + 3 + 3)
  check_same(tmp_path, whole)


SCRIPT = """
import os, signal
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.evaluation.test_evaluations import TWICE, counting

stop, seen = counting({asked}, lambda: os.kill(os.getpid(), signal.SIGKILL))
train_and_evaluate(tiny.epinet(**TWICE), {workdir!r}, stop=stop)
print('asked', len(seen))
"""


@pytest.mark.slow
def test_a_kill_between_two_evaluations_repeats_none(whole, tmp_path):
  """At the first batch of the second one: half way, and at the end."""
  for asked, total in ((6, None), (9, None), (0, 3)):
    code = SCRIPT.format(asked=asked, workdir=str(tmp_path / 'run'))
    with tiny.python('-c', code) as process:
      said, _ = process.communicate()
    if total is None:
      assert process.returncode == -signal.SIGKILL, said
    else:
      assert process.returncode == 0, said
      assert f'asked {total}' in said.splitlines(), said
  # On one device here, on eight there.
  check_same(tmp_path / 'run', whole, rel=1e-4)
