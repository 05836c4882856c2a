"""Whole runs: what they write, and that every config of the folder can run."""

import json
import math
import operator
from typing import ClassVar

import jax
import ml_collections
import numpy as np
import pytest

from flax_enn.data.regression import Regression
from flax_enn.feature_cache import store
from flax_enn.likelihoods import Categorical
from flax_enn.training import load_config, train_and_evaluate
from tests import long, slow, thinned, tiny
from tests.data import fake_tfds, test_jpeg_pack, test_sentences
from tests.test_resume import curves

CONFIGS = sorted(path.stem for path in (tiny.ROOT / 'configs').glob('*.py'))
CONFIGS_OF_CIFAR = [
    f'cifar{classes}_{kind}'
    for classes in (10, 100)
    for kind in ('resnet', 'epinet')
]
# What a config is called with after the colon, other than nothing and `smoke`.
CIFAR = ['32', '44', '56', '110']
IMAGENET = ['101', '152', '200']
VARIANTS = {
    'digits_epinet': ['joint'],
    'cifar10_foreign_epinet': ['features'],
    # The larger ones need more memory than each emulated device has.
    'cola_bert': ['small', 'large', 'sst2', 'tiny'],
    'cola_epinet': ['small', 'large', 'sst2', 'ensemble', 'dropout', 'joint'],
    'imagenet_resnet': IMAGENET,
    'imagenet_epinet': IMAGENET,
    **dict.fromkeys(CONFIGS_OF_CIFAR, CIFAR),
}
# One of each kind: an epinet, an ensemble; batch statistics, a prior of
# convolutions.
KINDS = [
    'digits_epinet', 'digits_ensemble', 'fashion_mnist_resnet',
    'imagenet_epinet',
]  # fmt: skip
# Whose data are at hand, or made in a moment: bundled ones, a file of arrays.
DATA = ['digits_epinet', 'fashion_mnist_epinet']


CLASSIFICATION = {'accuracy', 'nll', 'joint_nll', 'ece', 'brier'}
REGRESSION = {'rmse', 'nll', 'joint_nll'}


def get_config(name: str, arg: str = '') -> ml_collections.ConfigDict:
  path = f'{tiny.ROOT}/configs/{name}.py'
  return load_config(f'{path}:{arg}' if arg else path)


def check_results(results, split, names):
  """The documented structure and nothing else: no time, no date."""
  assert set(results) == {'step', split}
  # A network without a base has nothing to say of it.
  assert {'enn'} <= set(results[split]) <= {'base', 'enn'}
  for values in results[split].values():
    assert set(values) == names
    for name, value in values.items():
      assert math.isfinite(value), name


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  config = tiny.epinet()
  return config, workdir, train_and_evaluate(config, workdir)


def test_a_run_writes_its_results(run):
  config, workdir, returned = run
  text = (workdir / 'results.json').read_text()
  assert json.loads(text) == returned
  assert returned['step'] == config.num_steps
  check_results(returned, 'test', CLASSIFICATION)
  assert set(returned['test']) == {'base', 'enn'}


def test_a_run_writes_its_config(run):
  config, workdir, _ = run
  written = json.loads((workdir / 'config.json').read_text())
  assert written == json.loads(config.to_json())


def test_a_run_draws_its_report(run):
  _, workdir, _ = run
  assert (workdir / 'report.png').read_bytes().startswith(b'\x89PNG\r\n')


@pytest.mark.slow
def test_a_run_writes_its_curves(run):
  config, workdir, results = run
  found = curves(workdir)
  assert list(found['loss']) == [1, 2, 3, 4]
  assert found['loss'] == found['loss_data']
  rates = [
      config.optimizer.learning_rate * (1 + math.cos(math.pi * s / 4)) / 2
      for s in range(4)
  ]
  np.testing.assert_allclose(
      list(found['learning_rate'].values()), rates, rtol=1e-6
  )
  for model in ('base', 'enn'):
    (nll,) = found[f'test_{model}/nll'].values()
    assert nll == pytest.approx(results['test'][model]['nll'])


def test_a_run_leaves_nothing_else(run):
  _, workdir, _ = run
  names = {p.name for p in workdir.iterdir()}
  events = {name for name in names if name.startswith('events.out.tfevents.')}
  assert len(events) == 1
  assert names - events == {
      'checkpoints', 'config.json', 'model.json', 'report.png', 'results.json',
      'switches.json',
  }
  kept = {p.name for p in (workdir / 'checkpoints').iterdir()}
  assert kept == {'2', '4', 'scores.json'}


@pytest.mark.slow
def test_the_weight_of_an_objective_may_be_a_schedule(tmp_path):
  schedule = {
      'name': 'linear_schedule',
      'init_value': 0.5, 'end_value': 2.5, 'transition_steps': 4,
  }  # fmt: skip
  config = tiny.epinet(**{'objectives.data.weight': schedule})
  train_and_evaluate(config, tmp_path)
  found = curves(tmp_path)
  assert list(found['loss']) == [1, 2, 3, 4]
  for step, weight in zip(found['loss'], (0.5, 1.0, 1.5, 2.0)):
    expected = weight * found['loss_data'][step]
    assert found['loss'][step] == pytest.approx(expected)


class Spied(Regression):
  """A regression that remembers which splits were read."""

  read: ClassVar[set[str]] = set()

  def load(self, split):
    self.read.add(split)
    return super().load(split)


@pytest.mark.slow
def test_a_held_out_part_is_evaluated_instead_of_the_test_split(tmp_path):
  config = tiny.epinet(
      num_steps=1,
      dataset={'name': f'{__name__}:Spied', 'n_train': 64, 'holdout': 0.25},
      objectives={'data': {'loss': {'name': 'l2'}}},
      **{'network.classes': 1, 'network.base.classes': 1},
  )
  results = train_and_evaluate(config, tmp_path)
  check_results(results, 'validation', REGRESSION)
  assert Spied.read == {'train'}
  assert (tmp_path / 'report.png').read_bytes().startswith(b'\x89PNG\r\n')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  """What is too large to be in the repository, made small."""
  path = tmp_path_factory.mktemp('data')
  fake_tfds.imagenet(path, n_train=1024, n_test=4, sides=(40, 60))
  for name in ('cifar10', 'cifar100'):
    fake_tfds.cifar(name, path, n_train=128, n_test=4)
  images = np.zeros((128, 28, 28), np.uint8)
  labels = np.arange(128) % 10
  np.savez(
      path / 'fashion_mnist.npz',
      x_train=images, y_train=labels, x_test=images, y_test=labels,
  )  # fmt: skip
  return path


@pytest.mark.parametrize(
    'name, variant',
    # The others lie between the shallowest and the deepest.
    [
        *((name, '') for name in DATA),
        *(slow(name, '') for name in CONFIGS if name not in DATA),
        *(slow('cola_epinet', head) for head in ('ensemble', 'dropout')),
        # The deepest epinet has the deepest base in it.
        *(
            (long if '200' in variants or 'cifar100' in name else slow)(
                name, variants[-1]
            )
            for name, variants in VARIANTS.items()
            if name != 'imagenet_epinet'
        ),
        slow('imagenet_epinet', '200'),
    ],
)
def test_config_fits_together_at_full_size(name, variant, data_dir):
  config = get_config(name, variant)
  if config.dataset.name in ('imagenet2012', 'cifar10', 'cifar100'):
    config.dataset.data_dir = str(data_dir)
  if config.dataset.name == 'arrays':
    config.dataset.path = str(data_dir / 'fashion_mnist.npz')
  if config.dataset.name == 'cola':
    config.dataset.data_dir = str(test_sentences.write(data_dir))
  if config.dataset.name == 'features':
    config.dataset.path = str(data_dir / 'features' / name)
    y = np.arange(256) % 10
    x = {'logits': np.zeros((256, 10)), 'pooled': np.zeros((256, 64))}
    splits = {'train': (x, y), 'test': (x, y)}
    store(config.dataset.path, splits, {'preprocess': {}}, Categorical(10))
  if config.dataset.name == 'jpeg_pack':
    arrays = {
        f'{key}_{split}': value
        for split in ('train', 'test')
        for key, value in test_jpeg_pack.pack(256, size=32, classes=10).items()
    }
    config.dataset.path = str(data_dir / 'pack.npz')
    np.savez(config.dataset.path, **arrays)
  config.dataset.workers = 0
  trainer = tiny.built(config)
  x = trainer.model.preprocess(trainer.dataset.load('train')[0]['x'])
  forms = (
      jax.tree.map(lambda a: (a.shape, a.dtype), tree)
      for tree in (x, trainer.model.input_spec)
  )
  assert operator.eq(*forms)


def smoke(name, variant=''):
  config = get_config(name, f'{variant},smoke'.lstrip(','))
  assert (config.dataset.name, config.num_steps) == ('fake', 2)
  # So many distinct examples must be in a batch.
  config.eval.tau = 2
  return config


@pytest.mark.parametrize('name', thinned(CONFIGS))
def test_config_fits_together_in_its_smoke_form(name):
  tiny.built(smoke(name))


def test_variant_fits_together_in_its_smoke_form():
  tiny.built(smoke('digits_epinet', 'joint'))


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_config_runs_in_its_smoke_form(name, tmp_path):
  results = train_and_evaluate(smoke(name), tmp_path)
  check_results(results, 'test', CLASSIFICATION)


def test_smoke_form_has_the_structure_of_the_recipe():
  for name in CONFIGS:
    full, smoke = get_config(name), get_config(name, 'smoke')
    for section in ('network', 'objectives', 'optimizer'):
      assert _structure(full[section]) == _structure(smoke[section]), name


def _structure(section):
  """Names of what is built and of its fields, without their sizes.

  (`depth` stands for blocks and channels, which the smoke form has fewer of.)
  """
  return {
      key: _structure(value)
      if isinstance(value, ml_collections.ConfigDict)
      else value
      if key == 'name'
      else type(value)
      for key, value in section.items()
      if key not in ('blocks', 'channels') or 'depth' not in section
  }


@pytest.mark.parametrize('name', CONFIGS)
def test_config_says_which_variants_it_has(name):
  with pytest.raises(ValueError, match="did you mean 'smoke'") as caught:
    get_config(name, 'smok')
  for variant in VARIANTS.get(name, []):
    assert variant in str(caught.value)
