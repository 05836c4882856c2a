"""Data that cannot be used: said at the start, or once they are read."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import pytest

from flax_enn import run_folder
from flax_enn.data.two_moons import TwoMoons
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.bad_input.refusal import check_refused


def test_an_unprepared_tfds_set(run, tmp_path):
  dataset = {
      'name': 'tfds_images',
      'tfds_name': 'mnist',
      'data_dir': str(tmp_path),
  }
  says = ['config.dataset', 'data_dir', "'mnist'", 'download_and_prepare']
  check_refused(tiny.epinet(dataset=dataset), run, says)


def arrays(**changes):
  """Good arrays of 32 and 16 examples with two features, and changes."""
  rng = np.random.default_rng(0)
  good = {
      'x_train': rng.normal(size=(32, 2)).astype(np.float32),
      'y_train': np.arange(32) % 2,
      'x_test': rng.normal(size=(16, 2)).astype(np.float32),
      'y_test': np.arange(16) % 2,
  }
  return {**good, **{k: change(good[k]) for k, change in changes.items()}}


def _set(row, value):
  def change(array):
    array = array.copy()
    array[row] = value
    return array

  return change


ARRAYS = {
    'NaN in the data': (
        {'x_train': _set(5, math.nan)},
        ['x_train', 'not finite', '[5]'],
    ),
    'infinity in the test data': (
        {'x_test': _set((2, 1), math.inf)},
        ['x_test', 'not finite', '[2]'],
    ),
    'label above the classes': (
        {'y_test': _set(3, 7)},
        ['label 7', 'y_test', 'example 3', 'labels are 0 to 1'],
    ),
    'negative label': (
        {'y_train': _set(4, -1)},
        ['label -1', 'y_train', 'example 4', 'labels are 0 to 1'],
    ),
    'fewer labels than inputs': (
        {'y_train': lambda y: y[:-1]},
        ['x_train', '[32, 2]', '[31]'],
    ),
}


@pytest.mark.parametrize('case', ARRAYS)
def test_arrays(case, run, tmp_path):
  changes, says = ARRAYS[case]
  path = tmp_path / 'data.npz'
  np.savez(path, **arrays(**changes))
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  check_refused(config, run, ['config.dataset: path is', str(path), *says])


@pytest.mark.parametrize(
    'content, says',
    [
        (None, 'no such file'),
        (b'PK\x03\x04 and no more', 'cannot be read'),
    ],
    ids=['missing', 'no archive'],
)
def test_a_file_of_arrays_that_cannot_be_read(content, says, run, tmp_path):
  path = tmp_path / 'data.npz'
  if content is not None:
    path.write_bytes(content)
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  check_refused(config, run, ['config.dataset: path is', str(path), says])


@dataclasses.dataclass(frozen=True)
class Broken(TwoMoons):
  """Two moons with one input that is not finite, found when it is read."""

  def load(self, split):
    examples = super().load(split)
    if split == 'train':
      examples.x[self.bad] = math.nan
    return examples

  bad: ClassVar[int] = 99


@pytest.mark.slow
def test_data_that_break_off_leave_what_was_trained(tmp_path):
  config = tiny.epinet(
      num_steps=32,
      dataset={'name': f'{__name__}:Broken', 'n_train': 512, 'n_test': 24},
      **{'checkpoint.every': 0},
  )
  batches = tiny.built(config).train_batches()
  good = 0
  with pytest.raises(ValueError, match=r'not finite.*\[99\].*Correct the data'):
    while next(batches):
      good += 1
  assert 3 < good < 32, 'choose another seed'
  with pytest.raises(ValueError, match=r'not finite.*\[99\].*Correct the data'):
    train_and_evaluate(config, tmp_path)
  assert tiny.last_state(config, tmp_path)[1] == good


@dataclasses.dataclass(frozen=True)
class Torn(TwoMoons):
  """Two moons of which some cannot be read, found when they are read."""

  torn: tuple[int, ...] = (7, 90)

  def augment(self, x, rng):
    if any((x == self.load('train').x[i]).all() for i in self.torn):
      raise EOFError('torn')
    return x

  @property
  def preprocess(self):
    return Whole(tuple(self.load('test').x[7].tolist()))


@dataclasses.dataclass(frozen=True)
class Whole:
  torn: tuple[float, float]

  def __call__(self, x):
    if tuple(x.tolist()) == self.torn:
      raise EOFError('torn')
    return x


@pytest.mark.slow
def test_examples_that_cannot_be_read_are_passed_over(tmp_path, caplog):
  """Ended by them, the run goes on with a higher `skip_bad`."""
  config = tiny.epinet(
      num_steps=16,
      dataset={'name': f'{__name__}:Torn', 'n_train': 128, 'n_test': 24},
      **{'dataset.skip_bad': 1, 'checkpoint.every': 0},
  )
  says = r'^config\.dataset: .*id (7|90) .*With it 2 .*but skip_bad is 1;'
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(config, tmp_path)
  _, saved = tiny.last_state(config, tmp_path)
  assert 0 < saved < 8  # in the first epoch, of 8 steps
  (first,) = run_folder.read_json(tmp_path / 'skipped' / 'train' / '0.json')
  config.dataset.skip_bad = 2
  caplog.clear()
  results = train_and_evaluate(config, tmp_path)
  text = caplog.text
  assert 'WARNING' in text and '1 examples were passed over so far' in text
  assert 'Passed over (2 of 2): the example with id' in text
  assert 'test: 1 examples are not scored' in text
  found = run_folder.read_json(tmp_path / 'skipped' / 'train' / '0.json')
  assert {*found} == {'7', '90'} and first in found
  assert math.isfinite(results['test']['enn']['nll'])
