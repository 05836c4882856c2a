"""Whole runs: what they write, and that every config of the folder can run."""

import importlib.util
import json
import math

import ml_collections
import numpy as np
import pytest

from flax_enn.data.two_moons import TwoMoons
from flax_enn.training import train_and_evaluate
from flax_enn.training.plan import Plan
from tests import tiny
from tests.data import fake_tfds

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
    'imagenet_resnet': IMAGENET,
    'imagenet_epinet': IMAGENET,
    **dict.fromkeys(CONFIGS_OF_CIFAR, CIFAR),
}
# Those of them that have a smoke form of their own.
SMOKE = {'digits_epinet': ['joint']}

CLASSIFICATION = {'accuracy', 'nll', 'joint_nll', 'ece', 'brier'}
REGRESSION = {'rmse', 'nll', 'joint_nll'}


def get_config(name: str, arg: str = '') -> ml_collections.ConfigDict:
  path = tiny.ROOT / 'configs' / f'{name}.py'
  spec = importlib.util.spec_from_file_location(f'configs.{name}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module.get_config(arg)


def check_results(results, split, names, who):
  """The documented structure and nothing else: no time, no date."""
  assert set(results) == {'step', split}
  assert set(results[split]) == who
  for values in results[split].values():
    assert set(values) == names
    for name, value in values.items():
      assert math.isfinite(value), name


def check_same(found, expected):
  for who, values in expected['test'].items():
    assert found['test'][who] == pytest.approx(values, rel=1e-4)


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
  check_results(returned, 'test', CLASSIFICATION, {'base', 'enn'})


def test_a_run_writes_its_config(run):
  config, workdir, _ = run
  written = json.loads((workdir / 'config.json').read_text())
  assert written == json.loads(config.to_json())


def test_a_run_draws_its_report(run):
  _, workdir, _ = run
  assert (workdir / 'report.png').read_bytes().startswith(b'\x89PNG\r\n')


def test_a_run_writes_its_curves(run):
  from tensorboard.backend.event_processing import event_accumulator
  from tensorboard.util.tensor_util import make_ndarray

  config, workdir, results = run
  curves = event_accumulator.EventAccumulator(str(workdir)).Reload()

  def values(tag):
    events = curves.Tensors(tag)
    return {e.step: float(make_ndarray(e.tensor_proto)) for e in events}

  assert list(values('loss')) == [1, 2, 3, 4]
  assert values('loss') == values('loss_data')
  rates = [
      config.optimizer.learning_rate * (1 + math.cos(math.pi * s / 4)) / 2
      for s in range(4)
  ]
  np.testing.assert_allclose(
      list(values('learning_rate').values()), rates, rtol=1e-6
  )
  for who in ('base', 'enn'):
    (nll,) = values(f'test_{who}/nll').values()
    assert nll == pytest.approx(results['test'][who]['nll'])


def test_a_run_leaves_nothing_else(run):
  _, workdir, _ = run
  names = {p.name for p in workdir.iterdir()}
  events = {name for name in names if name.startswith('events.out.tfevents.')}
  assert len(events) == 1
  assert names - events == {
      'checkpoints', 'config.json', 'report.png', 'results.json',
  }
  kept = {p.name for p in (workdir / 'checkpoints').iterdir()}
  assert kept == {'2', '4', 'scores.json'}


def test_a_run_is_the_same_on_another_mesh(run, tmp_path):
  config, _, expected = run
  other = tiny.changed(config, {'mesh.data': 4, 'mesh.index': 2})
  check_same(train_and_evaluate(other, tmp_path), expected)


def test_one_device_and_eight_give_the_same(run, tmp_path):
  # 1x1x1 needs a process of its own, which has one device.
  _, _, expected = run
  path = tmp_path / 'config.py'
  path.write_text('from tests.tiny import epinet as get_config\n')
  workdir = tmp_path / 'run'
  flags = [f'--config={path}', f'--workdir={workdir}', '--config.mesh.data=1']
  with tiny.python(tiny.ROOT / 'train.py', *flags) as process:
    said, _ = process.communicate()
  assert process.returncode == 0, said
  check_same(json.loads((workdir / 'results.json').read_text()), expected)
  # The command line prints the table and says how many parameters there are.
  assert 'enn/base' in said
  assert 'Trained parameters' in said


def test_a_held_out_part_is_judged_instead_of_the_test_split(
    tmp_path, monkeypatch
):
  read = []
  load = TwoMoons.load

  def spy(self, split):
    read.append(split)
    return load(self, split)

  monkeypatch.setattr(TwoMoons, 'load', spy)
  config = tiny.epinet(**{'dataset.holdout': 0.25, 'num_steps': 1})
  results = train_and_evaluate(config, tmp_path)
  check_results(results, 'validation', CLASSIFICATION, {'base', 'enn'})
  assert set(read) == {'train'}


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
    [(name, v) for name in CONFIGS for v in ['', *VARIANTS.get(name, [])]],
)
def test_config_fits_together_at_full_size(name, variant, data_dir):
  config = get_config(name, variant)
  if config.dataset.name in ('imagenet2012', 'cifar10', 'cifar100'):
    config.dataset.data_dir = str(data_dir)
  if config.dataset.name == 'arrays':
    config.dataset.path = str(data_dir / 'fashion_mnist.npz')
  config.dataset.workers = 0
  plan = Plan.from_config(config)
  element = plan.dataset.preprocess(plan.dataset.source('train')[0])
  assert element['x'].shape == plan.dataset.shape
  assert element['x'].dtype == np.float32


@pytest.mark.parametrize('name', CONFIGS)
def test_config_runs_in_its_smoke_form(name, tmp_path):
  for variant in ['smoke', *(f'{v},smoke' for v in SMOKE.get(name, []))]:
    config = get_config(name, variant)
    assert (config.dataset.name, config.num_steps) == ('fake', 2)
    # So many distinct examples must be in a batch.
    config.eval.tau = 2
    workdir = tmp_path / variant
    results = train_and_evaluate(config, workdir)
    regression = config.dataset.get('task') == 'regression'
    names = REGRESSION if regression else CLASSIFICATION
    ensemble = config.network.name == 'ensemble'
    who = {'enn'} if ensemble else {'base', 'enn'}
    check_results(results, 'test', names, who)


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


def test_help_names_the_flags():
  with tiny.python(tiny.ROOT / 'train.py', '--help') as process:
    said, _ = process.communicate()
  assert process.returncode in (0, 1), said  # absl has it 1
  assert 'Traceback' not in said
  for flag in ('--config', '--workdir', '--profile_at'):
    assert flag in said, said


@pytest.mark.parametrize(
    'flags, says',
    [
        ([], '--config'),
        (['--config=nowhere.py', '--workdir=x'], 'nowhere.py'),
    ],
    ids=['none', 'no such config'],
)
def test_wrong_flags(flags, says, tmp_path):
  script = tiny.ROOT / 'train.py'
  with tiny.python(script, *flags, cwd=tmp_path) as process:
    said, _ = process.communicate()
  assert process.returncode != 0
  assert says in said
  assert not list(tmp_path.iterdir())
