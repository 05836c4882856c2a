import itertools
import os
from pathlib import Path
import pickle
import subprocess
import sys

import numpy as np
import pytest

from flax_enn.data import Loader, Pixels
from flax_enn.data.arrays import Arrays
from flax_enn.data.fake import Fake
from flax_enn.data.preferences import Preferences
from flax_enn.data.regression import Regression
from flax_enn.data.two_moons import TwoMoons
from flax_enn.likelihoods import Categorical, Gaussian
from tests import slow
from tests.data.reading import (
    eval_batches,
    everything,
    sizes,
    train_batches,
)

SYNTHETIC = {
    'fake': Fake(n_train=50, n_test=20),
    'fake regression': Fake(
        classes=3, task='regression', n_train=50, n_test=20
    ),
    'preferences': Preferences(n_train=50, n_test=20),
    'regression': Regression(n_train=50, n_test=20),
    'two_moons': TwoMoons(n_train=50, n_test=20),
}


@pytest.mark.parametrize('name', SYNTHETIC)
def test_synthetic(name):
  dataset = SYNTHETIC[name]
  (x, y, ids), (x_test, _, _) = (
      everything(dataset, split) for split in ('train', 'test')
  )
  form, target = dataset.input_spec, dataset.likelihood.target
  assert x.shape == (50, *form.shape) and x.dtype == form.dtype
  assert x_test.shape == (20, *form.shape)
  assert ids.tolist() == list(range(50)) and ids.dtype == np.int32
  assert y.shape == (50, *target.shape) and y.dtype == target.dtype
  assert not dataset.likelihood.check_targets(y)[0].any()
  assert not np.isin(x_test, x).all(axis=tuple(range(1, x.ndim))).any()
  again = everything(type(dataset)(**vars(dataset)), 'train')
  np.testing.assert_array_equal(again[0], x)
  fields = {**vars(dataset), 'seed': 1}
  other = everything(type(dataset)(**fields), 'train')
  assert not np.array_equal(other[0], x)


def test_regression_has_a_gap_and_the_noise_it_names():
  dataset = Regression(n_train=4000, noise_std=0.2)
  x, y, _ = everything(dataset, 'train')
  curve = x + 0.5 * np.sin(2 * np.pi * x)
  np.testing.assert_allclose(np.std(y - curve), 0.2, rtol=0.05)
  np.testing.assert_allclose(np.mean(y - curve), 0, atol=0.02)
  low, high = dataset.gap
  assert not ((x > low) & (x < high)).any()
  assert x.min() < -0.99 and x.max() > 0.99
  np.testing.assert_allclose(np.mean(x < low), 0.5, atol=0.05)


def test_preferences_are_those_of_bradley_and_terry():
  dataset = Preferences(n_train=20000, temperature=0.3)
  x, y, _ = everything(dataset, 'train')
  first, second = (dataset.rewards(x[:, i]) for i in range(2))
  odds = np.exp(first / 0.3) / np.exp(second / 0.3)
  probs = 1 / (1 + odds)  # of label 1
  parts = np.array_split(np.argsort(probs), 10)
  for rows in parts:
    error = (y[rows] - probs[rows]).sum()
    assert abs(error) < 4 * np.sqrt((probs * (1 - probs))[rows].sum())
  assert probs[parts[0]].mean() < 0.05 and probs[parts[-1]].mean() > 0.95
  # The reward is that of both splits.
  test, _, _ = everything(Preferences(n_test=20000), 'test')
  rewards = dataset.rewards(test)
  assert abs(rewards.mean()) < 0.05 and 0.5 < rewards.std() < 1.5


def test_pairs_of_few_items_share_them():
  x, y, _ = everything(Preferences(n_train=400, items=6), 'train')
  items, of = np.unique(x.reshape(800, -1), axis=0, return_inverse=True)
  first, second = of.reshape(400, 2).T
  assert len(items) == 6 and (first != second).all()
  # Every pair in both orders, with an answer of its own each time.
  count, wins = np.zeros((6, 6)), np.zeros((6, 6))
  np.add.at(count, (first, second), 1)
  np.add.at(wins, (first, second), y)
  assert (count + 3 * np.eye(6) > 2).all()
  assert ((wins > 0) & (wins < count)).any()
  assert len(np.unique(everything(Preferences(items=6), 'test')[0])) > 1000


def test_moons_are_half_circles():
  x, y, _ = everything(TwoMoons(noise=0.0), 'train')
  upper, lower = x[y == 0], x[y == 1]
  np.testing.assert_allclose(np.hypot(*upper.T), 1, rtol=1e-5)
  np.testing.assert_allclose(np.hypot(*(lower - [1, 0.5]).T), 1, rtol=1e-5)
  assert upper[:, 1].min() >= 0 and lower[:, 1].max() <= 0.5
  noisy, _, _ = everything(TwoMoons(noise=0.1, n_train=4000), 'train')
  clean, _, _ = everything(TwoMoons(noise=0.0, n_train=4000), 'train')
  np.testing.assert_allclose(np.std(noisy - clean), 0.1, rtol=0.05)


def test_holdout_splits_the_training_split():
  whole, _, _ = everything(Fake(n_train=50), 'train')
  rows = {}
  for holdout in (0.2, 0.4):
    for split in ('train', 'validation'):
      x, _, ids = everything(Fake(n_train=50), split, holdout=holdout)
      assert ids.tolist() == list(range(len(x)))
      same = (x[:, None] == whole).all(axis=(2, 3, 4))
      rows[holdout, split] = set(same.argmax(axis=1).tolist())
    train, held = rows[holdout, 'train'], rows[holdout, 'validation']
    assert not train & held and train | held == set(range(50))
    assert len(held) == 50 * holdout
  assert rows[0.2, 'validation'] < rows[0.4, 'validation']
  assert rows[0.2, 'validation'] != set(range(10))


@pytest.mark.parametrize(
    'attempt, message',
    [
        (lambda: Loader(holdout=1.0), r'holdout is 1\.0'),
        (lambda: Loader(holdout=-0.1), r'holdout is -0\.1'),
        (lambda: Fake(task='sorting'), r"task is 'sorting'"),
        (lambda: Fake(noise_std=-1.0), r'noise_std is -1\.0; .* above 0'),
        (lambda: Regression(noise_std=0.0), r'noise_std is 0\.0; .* above 0'),
        (lambda: Arrays('x.npz', noise_std=0.0), r'noise_std is 0\.0; .* abo'),
        (lambda: TwoMoons(noise=-0.1), r'noise is -0\.1; .* at least 0'),
        (lambda: Regression(n_test=-1), r'n_test is -1; .* at least 0'),
        (lambda: Preferences(temperature=0.0), r'temperature is 0\.0; .* ab'),
        (lambda: Preferences(items=1), 'items is 1; .* None or at least 2'),
        (lambda: Fake(shape=(4, 0)), r'shape is \(4, 0\); .* above 0'),
        (lambda: Loader().source(Fake(), 'dev'), r"no split 'dev'"),
        (
            lambda: Loader().source(Fake(), 'validation'),
            r"'validation' is empty: holdout is 0\.0",
        ),
    ],
)
def test_errors(attempt, message):
  with pytest.raises(ValueError, match=message):
    attempt()


def written(path, **arrays):
  """An `Arrays` of six examples, some of whose arrays are replaced."""
  labels = np.array([0, 1, 2, 0, 1, 2])
  images = np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5)
  default = {
      'x_train': images,
      'y_train': labels,
      'x_test': images[:3],
      'y_test': labels[:3],
  }
  arrays = {k: v for k, v in {**default, **arrays}.items() if v is not None}
  np.savez(path / 'mine.npz', **arrays)
  return Arrays(path=str(path / 'mine.npz'))


def test_arrays_scale_bytes(tmp_path):
  dataset = written(tmp_path)
  assert dataset.likelihood == Categorical(3)
  assert dataset.input_spec.shape == (4, 5, 1)
  assert dataset.preprocess == Pixels((4, 5, 1))
  x, y, _ = everything(dataset, 'train')
  expected = np.arange(120).reshape(6, 4, 5, 1) / 255
  np.testing.assert_allclose(x, expected, rtol=1e-6)
  assert x.dtype == np.float32 and y.tolist() == [0, 1, 2, 0, 1, 2]
  assert Arrays(path=dataset.path, num_classes=7).likelihood == Categorical(7)


def test_arrays_take_floats_as_they_are(tmp_path):
  x = np.random.RandomState(0).normal(size=(6, 4, 5))
  dataset = written(
      tmp_path, x_train=x, x_test=x, y_train=x[:, 0, 0], y_test=x[:, 0, 0]
  )
  assert dataset.likelihood == Gaussian(1)
  found, y, _ = everything(dataset, 'test')
  np.testing.assert_array_equal(found, x.astype(np.float32))
  np.testing.assert_array_equal(y, x[:, 0, :1].astype(np.float32))


PHOTOS = np.random.RandomState(0).randint(256, size=(6, 4, 5, 2)).astype('u1')
PHOTOS[..., 1] //= 3  # each channel has moments of its own


@pytest.mark.parametrize('kind', ['uint8', 'float32'])
def test_arrays_standardize_by_the_training_split(kind, tmp_path):
  x = PHOTOS if kind == 'uint8' else PHOTOS.astype(kind) * 10 + 5000
  path = written(tmp_path, x_train=x, x_test=x[:3]).path
  dataset = Arrays(path=path, standardize=True)
  raw = x.astype(np.float64)
  expected = (raw - raw.mean((0, 1, 2))) / raw.std((0, 1, 2))
  (batch,) = eval_batches(dataset, 'test', batch_size=3, holdout=0.5)
  assert batch.x.dtype == np.float32
  np.testing.assert_allclose(batch.x, expected[:3], atol=2e-5)
  np.testing.assert_array_equal(dataset.load('test')[0]['x'], x[0])


@pytest.mark.parametrize(
    'workers, flip',
    [(0, True), (0, False), slow(1, True)],
)
def test_arrays_augment_in_training_alone(workers, flip, tmp_path):
  path = written(tmp_path, x_train=PHOTOS, x_test=PHOTOS[:3]).path
  dataset = Arrays(path=path, padding=2, flip=flip, standardize=True)
  x = (PHOTOS - PHOTOS.mean((0, 1, 2))) / PHOTOS.std((0, 1, 2))
  (batch,) = eval_batches(dataset, 'test', batch_size=3, workers=workers)
  np.testing.assert_allclose(batch.x, x[:3], atol=1e-5)
  padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
  stream = train_batches(dataset, batch_size=6, workers=workers)
  places = set()
  for batch in itertools.islice(stream, 20):
    for image, i in zip(batch.x, batch.id):
      found = [
          (top, left, step)
          for top, left, step in itertools.product(range(5), range(5), (1, -1))
          if np.allclose(
              padded[i, top : top + 4, left : left + 5][:, ::step],
              image,
              atol=1e-5,
          )
      ]
      assert found
      places.add(found[0])
  assert {step for *_, step in places} == ({1, -1} if flip else {1})
  assert len(places) > (30 if flip else 20)  # of 50 or 25


def test_arrays_know_their_moments_without_the_file(tmp_path):
  """A worker gets them with the fields, and none of the images."""
  path = written(tmp_path, x_train=PHOTOS, x_test=PHOTOS[:3]).path
  dataset = Arrays(path=path, standardize=True)
  x = dataset.load('test')[0]['x']
  sent = pickle.loads(pickle.dumps(dataset))
  Path(path).unlink()
  assert sent.preprocess == dataset.preprocess
  np.testing.assert_array_equal(sent.preprocess(x), dataset.preprocess(x))
  assert '_splits' not in vars(sent) and sent == dataset


VECTORS = {'x_train': np.zeros((6, 4)), 'x_test': np.zeros((3, 4))}
FLAT = np.concatenate([PHOTOS, np.full_like(PHOTOS, 255)], axis=-1)
TENTHS = np.where([True, False], np.float32(0.1), PHOTOS)


@pytest.mark.parametrize(
    'arrays, fields, message',
    [
        (VECTORS, {'padding': 2}, r'padding is 2, which is .*shape \[6, 4\]'),
        (VECTORS, {'flip': True}, r'flip is True, which is for images'),
        (VECTORS, {'standardize': True}, r'standardize is True, which is for'),
        ({}, {'padding': -1}, r'padding is -1; .*from 0 to 4 .*\[4, 5, 1\]'),
        ({}, {'padding': 5}, r'padding is 5; .*from 0 to 4 .*\[4, 5, 1\]'),
        (
            {'x_train': FLAT, 'x_test': FLAT[:3]},
            {'standardize': True},
            r'standardize is True, but .*channels \[2, 3\] have one value',
        ),
        (
            {'x_train': TENTHS, 'x_test': TENTHS[:3]},
            {'standardize': True},
            r'standardize is True, but .*channels \[0\] have one value',
        ),
    ],
)
def test_arrays_change_images_alone(arrays, fields, message, tmp_path):
  path = written(tmp_path, **arrays).path
  with pytest.raises(ValueError, match=message):
    train_batches(Arrays(path=path, **fields), batch_size=2)


NAN = np.array([[0.0], [np.nan], [0.0], [0.0], [0.0], [np.inf]])
BAD = {
    'missing': ({'y_test': None}, r"no arrays \['y_test'\]; it has .*'x_test'"),
    'nan': ({'x_train': NAN}, r'x_train .*not finite, in 2 .*\[1, 5\]'),
    'nan target': ({'y_test': NAN[:3]}, r'y_test .*not finite.*\[1\]'),
    'label': (
        {'y_test': np.array([0, 3, 1])},
        r'label 3 in y_test \(example 1\), but labels are 0 to 2',
    ),
    'negative': (
        {'y_train': np.array([0, 1, 2, -5, 1, 0])},
        r'label -5 in y_train \(example 3\), but labels are 0 to 2',
    ),
    'gap': (
        {'y_train': np.array([0, 1, 2, 10**12, 1, 0])},
        r'up to 10{12} in y_train \(example 3\), but never 3; .*num_classes',
    ),
    'lengths': ({'y_train': np.arange(5)}, r'\[6, 4, 5\] and y_train of \[5\]'),
    'empty': (
        {'x_test': np.zeros((0, 4, 5)), 'y_test': np.zeros(0)},
        r'x_test of shape \[0, 4, 5\].*at least one',
    ),
    'shapes': (
        {'x_test': np.zeros((3, 4, 6), np.uint8)},
        r'x_train of .*\[6, 4, 5, 1\] and x_test of .*\[3, 4, 6, 1\]',
    ),
    'tasks': ({'y_test': np.zeros(3)}, r'y_train of int64\[6\] and y_test'),
    'matrix of integers': (
        {'y_train': np.zeros((6, 1), int)},
        r'y_train of integers \[6, 1\]; labels are integers \[B\]',
    ),
    'weight': ({'weight_test': NAN[:3, 0]}, r'weight_test .*not finite.*\[1\]'),
    'no features': ({'x_train': np.zeros((6, 0))}, r'x_train .*\[6, 0\]; it'),
    'the least integer': (
        {'x_train': np.full((6, 4), np.iinfo(np.int64).min)},
        r'integer 9223372036854775808 in x_train; float32 is exact up to',
    ),
    'scalar': ({'x_train': np.array(1.0)}, r'x_train of shape \[\]'),
    'text': ({'x_train': np.array(['a'] * 6)}, r'x_train of type <U1'),
    'objects': ({'x_train': np.array([None] * 6)}, r'cannot be read .*pickle'),
}


@pytest.mark.parametrize('case', BAD)
def test_arrays_say_what_is_wrong(case, tmp_path):
  arrays, message = BAD[case]
  with pytest.raises(ValueError, match=message) as e:
    written(tmp_path, **arrays).load('train')
  assert str(e.value).startswith('path is ')


@pytest.mark.parametrize(
    'content, message', [(None, 'no such file'), (b'PK\3\4', 'cannot be read')]
)
def test_arrays_need_a_file(content, message, tmp_path):
  path = tmp_path / 'mine.npz'
  if content:
    path.write_bytes(content)
  with pytest.raises(ValueError, match=rf'^path is .*{message}'):
    Arrays(path=str(path)).load('train')


def test_arrays_of_real_images():
  if 'FLAX_ENN_DATA' not in os.environ:
    pytest.skip('FLAX_ENN_DATA names no folder of real data')
  path = Path(os.environ['FLAX_ENN_DATA']) / 'fashion_mnist.npz'
  dataset = Arrays(path=str(path))
  raw = np.load(path)
  assert dataset.likelihood == Categorical(10)
  assert dataset.input_spec.shape == (28, 28, 1)
  assert sizes(dataset, holdout=0.1) == [54000, 6000, 10000]
  batch = next(train_batches(dataset, batch_size=256))
  assert batch.x.shape == (256, 28, 28, 1) and batch.x.max() == 1
  batches = list(eval_batches(dataset, 'test', batch_size=4096))
  x = np.concatenate([b.x for b in batches])[:10000, ..., 0]
  np.testing.assert_array_equal(np.rint(x * 255), raw['x_test'])


def test_import_is_light():
  program = (
      'import sys, jax, flax_enn.data; print(*sorted({"tensorflow",'
      ' "tensorflow_datasets", "grain", "sklearn"} & set(sys.modules)))'
  )
  root = Path(__file__).parents[2]
  run = subprocess.run(
      [sys.executable, '-c', program], cwd=root, capture_output=True, text=True
  )
  assert run.returncode == 0, run.stderr
  assert not run.stdout.split()
