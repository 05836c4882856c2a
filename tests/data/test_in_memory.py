"""Batches taken from arrays are those that Grain would read."""

import dataclasses
import itertools

import grain
import jax
import numpy as np
import pytest

from flax_enn.data import ArraySource, Taken
from flax_enn.data.arrays import Arrays
from flax_enn.data.augmentation import batched
from flax_enn.data.base import Wrapped
from flax_enn.data.cifar10 import Cifar10
from flax_enn.data.fake import Fake
from flax_enn.data.mnist import Mnist
from flax_enn.data.order import Order, epoch_order
from flax_enn.data.replaced_train import ReplacedTrain
from flax_enn.data.standardized_images import StandardizedImages
from tests import slow, tiny
from tests.data.reading import eval_batches, train_batches


@dataclasses.dataclass(frozen=True)
class Opaque:
  """A source of which nothing is known."""

  examples: ArraySource

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    return self.examples[index]


@dataclasses.dataclass(frozen=True)
class Trees(Fake):
  """Trees of inputs with weights, and labels of another dtype."""

  shape: tuple[int, ...] = (3,)
  n_train: int = 44
  n_test: int = 30

  @property
  def input_spec(self):
    flag = jax.ShapeDtypeStruct((2,), np.bool_)
    return {'a': super().input_spec, 'b': flag}

  def load(self, split):
    plain = super().load(split)
    x = {'a': plain.x, 'b': plain.x[:, :2] > 0}
    weight = np.linspace(0, 3, len(plain))
    return ArraySource(x, plain.y.astype(np.int64), weight)


@dataclasses.dataclass(frozen=True)
class OpaqueTrees(Trees):

  def load(self, split):
    return Opaque(super().load(split))


@dataclasses.dataclass(frozen=True)
class OpaqueArrays(Arrays):

  def load(self, split):
    return Opaque(super().load(split))


@pytest.fixture(params=['trees', 'bytes', 'floats'])
def pair(request, tmp_path):
  """A data set in arrays, and the same that only Grain can read."""
  if request.param == 'trees':
    return Trees(), OpaqueTrees()
  rng, dtype = np.random.RandomState(0), request.param
  x = rng.randint(256, size=(74, 4, 5, 3)).astype(np.uint8)
  x = x if dtype == 'bytes' else np.float32(x / 7)
  y = rng.randint(3, size=74)
  names = ('x_train', 'y_train', 'x_test', 'y_test')
  arrays = dict(zip(names, (x[:44], y[:44], x[44:], y[44:])))
  np.savez(tmp_path / 'a.npz', **arrays)
  fields = {'path': str(tmp_path / 'a.npz'), 'standardize': True}
  return Arrays(**fields), OpaqueArrays(**fields)


def assert_equal(taken, read):
  assert isinstance(taken, Taken) and not isinstance(read, Taken)
  taken, read = (list(itertools.islice(b, 9)) for b in (taken, read))
  assert len(taken) == len(read) > 0
  for a, b in zip(taken, read):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    dtypes = [jax.tree.map(lambda leaf: leaf.dtype, c) for c in (a, b)]
    assert dtypes[0] == dtypes[1]


@pytest.mark.parametrize('start', [slow(0), 5, slow(100)])
@pytest.mark.parametrize('shard', [(0, 1), (1, 2)])
@pytest.mark.parametrize('holdout', [0.0, 0.3])
def test_taken_as_read(pair, start, shard, holdout):
  options = dict(zip(('shard_index', 'shard_count'), shard), holdout=holdout)
  kwargs = {'batch_size': 12, 'start': start, **options}
  assert_equal(*(train_batches(dataset, seed=3, **kwargs) for dataset in pair))
  kwargs['start'] = min(start, 1)
  for split in ('test', 'validation') if holdout else ('train', 'test'):
    assert_equal(*(eval_batches(dataset, split, **kwargs) for dataset in pair))


@pytest.mark.parametrize(
    'length', [1, 2, 3, 64, 1000, 50000, 65536, 65537, 65538, 70000]
)
@pytest.mark.parametrize('seed', [0, 12345, 2**32 - 1])
def test_the_order_is_that_of_grain(length, seed):
  shuffled = grain.MapDataset.range(length).shuffle(seed).repeat()
  some = np.random.RandomState(0).randint(length, size=20)
  for at in {0, length - 1, *some.tolist()}:
    for epoch in (0, 1):
      found = epoch_order(length, seed + epoch)
      assert found[at] == shuffled[epoch * length + at]


def test_an_order_goes_over_the_ends_of_epochs():
  whole = np.concatenate([epoch_order(10, 7 + e) for e in range(4)])
  order = Order(10, 7)
  for start, stop in ((0, 10), (8, 12), (5, 35), (0, 1), (39, 40)):
    np.testing.assert_array_equal(order(start, stop), whole[start:stop])


def of_bytes(shape):
  rng = np.random.RandomState(0)
  x = rng.randint(256, size=(44, *shape)).astype(np.uint8)
  return ArraySource(x, rng.randint(3, size=44))


AUGMENTED = {
    'moved': Cifar10(cutout=8),
    'cropped': Cifar10(crop=24, flip=False),
    'wrapped': ReplacedTrain(Cifar10(), Cifar10()),
    'standardized': StandardizedImages(Cifar10()),
    'per image': Mnist(),
}


@pytest.mark.parametrize('name', AUGMENTED)
# At the second start positions have more than 32 bits.
@pytest.mark.parametrize('start', [5, 2**30])
@pytest.mark.parametrize('shard', [(0, 1), slow((1, 2))])
def test_augmented_as_read(name, start, shard, monkeypatch):
  dataset, source = AUGMENTED[name], of_bytes((32, 32, 3))
  grey = of_bytes((28, 28, 1))
  monkeypatch.setattr(Cifar10, 'load', lambda *_: source)
  monkeypatch.setattr(Mnist, 'load', lambda *_: grey)
  kwargs = dict(zip(('shard_index', 'shard_count'), shard), batch_size=12)
  taken = train_batches(dataset, seed=3, start=start, **kwargs)
  held = eval_batches(dataset, 'test', **kwargs)
  monkeypatch.setattr(Cifar10, 'load', lambda *_: Opaque(source))
  monkeypatch.setattr(Mnist, 'load', lambda *_: Opaque(grey))
  read = train_batches(dataset, seed=3, start=start, **kwargs)
  assert_equal(taken, read)
  assert taken.examples() is None or not dataset.augments
  assert isinstance(held, Taken)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_augmented_arrays_as_read(dtype, tmp_path):
  source = of_bytes((8, 6, 3))
  x, y = source.x.astype(dtype), source.y
  np.savez(tmp_path / 'a', x_train=x, y_train=y, x_test=x, y_test=y)
  fields = {'path': str(tmp_path / 'a.npz'), 'padding': 2, 'flip': True}
  both = (Arrays(**fields), OpaqueArrays(**fields))
  assert_equal(*(train_batches(dataset, 12, seed=3) for dataset in both))


@dataclasses.dataclass(frozen=True)
class Darker(Wrapped):
  """Changes only what its training images are."""

  def augment(self, x, rng):
    return self.dataset.augment(x, rng) / (2 + rng.random())


@dataclasses.dataclass(frozen=True)
class DarkerCifar(Cifar10):

  def augment(self, x, rng):
    return super().augment(x, rng) / (2 + rng.random())


@dataclasses.dataclass(frozen=True)
class DarkerStandardized(StandardizedImages):

  def augment(self, x, rng):
    return super().augment(x, rng) / (2 + rng.random())


@dataclasses.dataclass(frozen=True)
class DarkerBatched(Cifar10):

  @batched
  def augment(self, x, rng):
    scale = np.float32(2 + rng.random())
    return super().augment(x, rng) / scale[:, None, None, None]


def test_an_augmentation_may_build_on_a_batched_one(monkeypatch):
  source, dataset = of_bytes((32, 32, 3)), DarkerBatched()
  monkeypatch.setattr(Cifar10, 'load', lambda *_: source)
  taken = train_batches(dataset, 12, seed=3)
  monkeypatch.setattr(Cifar10, 'load', lambda *_: Opaque(source))
  assert_equal(taken, train_batches(dataset, 12, seed=3))


@pytest.mark.parametrize(
    'dataset',
    [
        Darker(Cifar10()),
        DarkerCifar(),
        Darker(Fake((32, 32, 3))),
        DarkerStandardized(Cifar10()),
        DarkerStandardized(Fake((32, 32, 3))),
    ],
)
def test_an_augmentation_of_ones_own_is_used(dataset, monkeypatch):
  monkeypatch.setattr(Cifar10, 'load', lambda *_: of_bytes((32, 32, 3)))
  batches = train_batches(dataset, 12)
  assert not isinstance(batches, Taken)
  whole = dataset.load('train').x
  largest = abs(dataset.preprocess(whole[0])).max()
  assert 0 < abs(next(batches).x).max() < largest


@pytest.mark.parametrize('start', [0, 5])
def test_devices_hold_a_small_data_set(start):
  trainer = tiny.built(tiny.epinet(batch_size=24))
  with trainer.use_mesh():
    placed = trainer.placed_batches(start)
    for _, a, b in zip(range(6), placed, trainer.train_batches(start)):
      jax.tree.map(np.testing.assert_array_equal, a, b)
      assert {leaf.sharding for leaf in jax.tree.leaves(a)} == {
          trainer.batch_sharding
      }


def test_devices_hold_no_bad_example():
  @dataclasses.dataclass(frozen=True)
  class Spoilt(Fake):
    def load(self, split):
      plain = super().load(split)
      plain.y[17] = -1
      return plain

  batches = train_batches(Spoilt(), 8)
  assert batches.examples() is None
  with pytest.raises(ValueError, match=r'label -1.* id \[17\]'):
    list(itertools.islice(batches, 8))
