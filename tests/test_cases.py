"""Small inputs that once failed, each an instance of a kind, by its number."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.core import Output
from flax_enn.data.two_moons import TwoMoons
from flax_enn.indexers import GaussianIndexer
from flax_enn.networks.layers import IndexContract
from flax_enn.training import checks, train_and_evaluate
from flax_enn.training.trainer import Trainer
from tests import tiny

# What statistics become in a step.
FORMS = {
    'wider': lambda mean: mean.astype(jnp.float32),
    'longer': lambda mean: jnp.append(mean, mean[-1]),
    'spread': lambda mean: mean[None],
}


class Net(nn.Module):
  """A user's own network, whose `odd` says what is unusual about it."""

  odd: str
  classes: int = 2

  @property
  def indexer(self):
    return GaussianIndexer(4)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    init = nn.initializers.lecun_normal()
    if self.odd == 'kernel':
      x *= self.param('kernel', nn.initializers.ones, x.shape[-1:])
    if self.odd == 'axes':
      init = nn.with_logical_partitioning(init, ('embed', 'mlp'))
    h = nn.Dense(8, kernel_init=init)(x)
    if self.odd == 'norm':
      h += nn.Dense(8, name='z')(index)
      h = nn.BatchNorm(use_running_average=not train)(h)
    h = nn.relu(h)
    if self.odd == 'dropout':
      h = nn.Dropout(0.5, deterministic=not train)(h)
    if self.odd == 'sow':
      self.sow('losses', 'activity', jnp.square(h).mean())
    if self.odd in FORMS:
      mean = self.variable('seen', 'mean', jnp.zeros, 2, jnp.bfloat16)
      if train and not self.is_initializing():
        mean.value = FORMS[self.odd](mean.value)
    if self.odd == 'complex':
      self.param('phase', lambda key: jnp.ones(3, jnp.complex64))
    base = nn.Dense(self.classes, name='b')(h)
    out = base + IndexContract(self.classes)(h, index)
    return Output(out, base=h if self.odd == 'base' else base)


class Base(nn.Module):
  """A base that returns logits alone."""

  classes: int = 2

  @nn.compact
  def __call__(self, x, *, train=False):
    return nn.Dense(self.classes)(x)


@dataclasses.dataclass(frozen=True)
class Weighted(TwoMoons):
  """Examples of class 1 weigh five times as much."""

  def load(self, split):
    return [
        {**element, 'weight': np.float32(1 + 4 * element['y'])}
        for element in super().load(split)
    ]


def own(odd):
  network = {'name': f'{__name__}:Net', 'odd': odd}
  return tiny.epinet(network=network)


def arrays(tmp_path, x, y, **fields):
  path = tmp_path / 'data.npz'
  np.savez(path, x_train=x[:32], y_train=y[:32], x_test=x[32:], y_test=y[32:])
  return tiny.epinet(dataset={'name': 'arrays', 'path': str(path)}, **fields)


def refused(config, says):
  with pytest.raises(ValueError, match=says) as caught:
    trainer = Trainer.from_config(config)
    checks.check_data(trainer)
    checks.check(trainer)
  said = str(caught.value)
  assert '\n' not in said
  if config.network.name == f'{__name__}:Net':
    assert f'(See {__file__}' in said


X = np.random.RandomState(0).normal(size=(48, 2)).astype(np.float32)
Y = np.arange(48) % 2


def test_01_statistics_after_the_index():
  refused(own('norm'), 'statistics of the network depend on the index')


@pytest.mark.parametrize(
    'odd',
    [
        pytest.param('dropout', id='02'),
        pytest.param('axes', id='04'),
        pytest.param('kernel', id='06'),
    ],
)
def test_networks_that_train(odd):
  config = own(odd)
  trainer = tiny.built(config)
  with trainer.use_mesh():
    state = trainer.create_state()
  assert state.params


def test_03_a_network_that_sows():
  refused(own('sow'), "collection 'losses' has another form after a step")


@pytest.mark.parametrize(
    ('odd', 'says'),
    [
        ('wider', r'mean: found float32\[2\], expected bfloat16\[2\]'),
        ('longer', r'mean: found bfloat16\[3\], expected bfloat16\[2\]'),
        ('spread', r'mean: found bfloat16\[1, 2\], expected bfloat16\[2\]'),
    ],
)
def test_statistics_of_another_form_after_a_step(odd, says):
  refused(own(odd), rf"collection 'seen' has another form after .*\({says}\)")


def test_07_a_base_of_another_shape():
  refused(own('base'), r"'\S*:Net' has a base \[16, 8\].* needs \[16, 2\]")


def test_08_complex_parameters():
  refused(own('complex'), r'the parameter phase is complex64\[3\]; .* real')


def test_09_weights_of_examples_are_used():
  config = tiny.epinet(**{'dataset.name': f'{__name__}:Weighted'})
  batch = next(iter(tiny.built(config).train_batches()))
  np.testing.assert_array_equal(batch.weight, 1 + 4 * batch.y)


def test_10_a_part_of_a_warm_up_step():
  schedule = {'name': 'cosine', 'warmup_steps': 0.1}
  config = tiny.epinet(**{'optimizer.schedule': schedule})
  refused(config, r'schedule\.warmup_steps is 0\.1; expected an integer')


def test_11_classes_that_are_floats(tmp_path):
  classes = {'network.classes': 2, 'network.base.classes': 2}
  config = arrays(tmp_path, X, Y.astype(np.float64), **classes)
  refused(config, 'integers are classes, floats are targets of a regression')


def test_12_grey_images_without_channels(tmp_path):
  images = np.random.RandomState(0).rand(48, 8, 8).astype(np.float32)
  config = arrays(
      tmp_path,
      images,
      Y,
      **{'network.base': {'name': 'convnet'}, 'network.features': ('hidden',)},
  )
  refused(config, r'\[8, 2\] for 16 inputs float32\[8, 8\].*axis of channels')


@pytest.mark.parametrize('kind', [np.int64, np.int32, np.uint32])
def test_13_integers_that_float32_would_change(tmp_path, kind):
  config = arrays(tmp_path, np.full((48, 2), 2**24 + 1, kind), Y)
  refused(config, 'the integer 16777217 in x_train; float32 is exact up to')
  exact = arrays(tmp_path, np.full((48, 2), 2**24, kind), Y)
  assert checks.check_data(Trainer.from_config(exact)) is None


def test_16_a_base_that_returns_logits_alone():
  config = tiny.epinet(**{'network.base': {'name': f'{__name__}:Base'}})
  refused(config, 'the base Base returned one array; a base returns logits')


NUMBERS: dict[str, Any] = {
    'optimizer.learning_rate': np.float32(0.5),
    'seed': np.int64(3),
    'network.hiddens': np.array([4, 3]),
    'network.prior_scale': np.float64(0.25),
    'eval.temperature': np.float32(2),
    'batch_size': np.int32(8),
}


def test_18_numbers_of_numpy():
  config = tiny.built(tiny.epinet(**NUMBERS)).config
  for field, value in NUMBERS.items():
    found = json.loads(config.to_json())
    for part in field.split('.'):
      found = found[part]
    assert found == value.tolist()


@pytest.mark.slow
def test_19_and_20_a_workdir(tmp_path):
  """`~` is the home folder, and a file is no folder."""
  (tmp_path / 'file').touch()
  code = '''
from flax_enn.training import train_and_evaluate
from tests import tiny
try:
  train_and_evaluate(tiny.epinet(), 'file')
except ValueError as e:
  print(e)
train_and_evaluate(tiny.epinet(num_steps=1), '~/run')
'''
  said = subprocess.run(
      [sys.executable, '-c', code],
      env={**tiny.environment(), 'HOME': str(tmp_path)},
      cwd=tmp_path, check=True, capture_output=True, text=True,
  ).stdout  # fmt: skip
  assert re.match(r'workdir is file, which cannot .* another --workdir', said)
  assert (tmp_path / 'run' / 'results.json').exists()
  assert '~' not in os.listdir(tmp_path)


def test_23_one_test_example_has_no_pair(tmp_path):
  config = tiny.epinet(**{'dataset.n_test': 1, 'num_steps': 1})
  results = train_and_evaluate(config, tmp_path)
  assert results['test']['enn']['joint_nll'] is None

  def refuse(token):
    raise AssertionError(f'{token} is not JSON')

  for name in ('results.json', 'checkpoints/scores.json'):
    json.loads((tmp_path / name).read_text(), parse_constant=refuse)
