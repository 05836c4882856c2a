import dataclasses
import itertools

import jax
import numpy as np
import pytest

from flax_enn.data import ArraySource, BatchesThenBlanks, Dataset, prefetch
from flax_enn.data.fake import Fake
from flax_enn.likelihoods import Categorical
from tests import slow
from tests.data.reading import eval_batches, train_batches


@dataclasses.dataclass(frozen=True)
class Jittered(Fake):
  """Its augmentation shows which random numbers it was given."""

  def augment(self, x, rng):
    return x + rng.random(dtype=np.float32)


@dataclasses.dataclass(frozen=True)
class Spoilt(Fake):
  """In example 17 of the test split, `where` is `bad`."""

  where: str = 'x'
  bad: float = np.nan

  def load(self, split):
    clean = super().load(split)
    if split == 'train':
      return clean
    weight = np.ones(len(clean))
    arrays = {'x': clean.x.copy(), 'y': clean.y.copy(), 'weight': weight}
    arrays[self.where][17] = self.bad
    return ArraySource(**arrays)


SMALL = Jittered(shape=(3,), n_train=48, n_test=30)


def take(n, dataset=SMALL, **kwargs):
  kwargs = {'batch_size': 16, 'seed': 0, **kwargs}
  return list(itertools.islice(train_batches(dataset, **kwargs), n))


def assert_equal(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def joined(shares):
  """The global batches from the shares of all hosts."""
  return [
      jax.tree.map(lambda *x: np.concatenate(x), *parts)
      for parts in zip(*shares)
  ]


def test_batches_hold_the_examples_of_their_ids():
  dataset = Fake(shape=(3,), n_train=48)
  raw = dataset.load('train')
  for batch in take(4, dataset):
    np.testing.assert_array_equal(batch.x, raw.x[batch.id])
    np.testing.assert_array_equal(batch.y, raw.y[batch.id])
    np.testing.assert_array_equal(batch.weight, np.ones(16))
    np.testing.assert_array_equal(batch.mask, np.ones(16))
    for field in ('x', 'weight', 'mask'):
      assert getattr(batch, field).dtype == np.float32
    assert batch.y.dtype == batch.id.dtype == np.int32


@pytest.mark.parametrize('batch_size', [16, 20, 48])
def test_every_epoch_is_a_new_permutation(batch_size):
  batches = take(-(-48 * 4 // batch_size), batch_size=batch_size)
  ids = np.concatenate([b.id for b in batches])[: 48 * 4].reshape(4, 48)
  np.testing.assert_array_equal(np.sort(ids, axis=1), [np.arange(48)] * 4)
  assert len({tuple(epoch) for epoch in ids}) == 4
  assert tuple(np.arange(48)) not in {tuple(epoch) for epoch in ids}


@pytest.mark.parametrize('start', [1, 3, 7, 100])
def test_start_skips_batches(start):
  far = take(start + 3)
  assert_equal(take(3, start=start), far[start:])


@pytest.mark.parametrize('hosts', [2, 4])
@pytest.mark.parametrize('batch_size', [16, 20])
def test_hosts_share_the_stream_of_one(hosts, batch_size):
  shares = [
      take(
          5, batch_size=batch_size, start=2, shard_index=h, shard_count=hosts
      )
      for h in range(hosts)
  ]
  assert shares[0][0].id.shape == (batch_size // hosts,)
  assert_equal(joined(shares), take(5, batch_size=batch_size, start=2))


def test_augmentation_depends_on_seed_and_position_alone():
  raw = SMALL.load('train').x
  noise = [b.x - raw[b.id] for b in take(6, read_ahead=3)]
  again = [b.x - raw[b.id] for b in take(6, read_ahead=0)]
  np.testing.assert_array_equal(noise, again)
  # Another number at every position, also for the same example.
  assert len(np.unique(np.round(np.array(noise)[..., 0], 5))) > 90
  other = [b.x - raw[b.id] for b in take(6, seed=1)]
  assert not np.any(np.isclose(noise, other, atol=1e-6))


def test_seeds_share_no_epoch():
  epochs = [
      tuple(np.concatenate([b.id for b in take(3, seed=seed, start=3 * e)]))
      for seed in (0, 1, 2, 2**40)
      for e in range(3)
  ]
  assert len(set(epochs)) == len(epochs)


def test_evaluation_is_not_augmented_and_in_order():
  (batch,) = eval_batches(SMALL, 'test', batch_size=30)
  np.testing.assert_array_equal(batch.x, SMALL.load('test').x)
  np.testing.assert_array_equal(batch.id, np.arange(30))


@pytest.mark.parametrize('hosts', [1, 2, 4])
@pytest.mark.parametrize('n', [1, 30, 32, 33])
def test_evaluation_covers_a_split_once(hosts, n):
  dataset = Fake(shape=(3,), n_test=n)
  shares = [
      list(
          eval_batches(
              dataset, 'test', 8, shard_index=h, shard_count=hosts
          )
      )
      for h in range(hosts)
  ]
  assert {len(share) for share in shares} == {-(-n // 8)}
  shapes = {b.x.shape for b in itertools.chain(*shares)}
  assert shapes == {(8 // hosts, 3)}
  every = jax.tree.map(lambda *x: np.concatenate(x), *joined(shares))
  np.testing.assert_array_equal(every.id[:n], np.arange(n))
  np.testing.assert_array_equal(every.x[:n], dataset.load('test').x)
  np.testing.assert_array_equal(every.mask, np.arange(len(every.mask)) < n)
  np.testing.assert_array_equal(every.id[n:], -1)
  assert not every.x[n:].any() and not every.y[n:].any()


def test_evaluation_goes_on_where_it_was():
  batches = list(eval_batches(SMALL, 'test', batch_size=8))
  assert_equal(list(eval_batches(SMALL, 'test', 8, start=2)), batches[2:])


def test_workers_change_nothing():
  kwargs = {'start': 1, 'shard_index': 1, 'shard_count': 2}
  assert_equal(take(4, workers=2, **kwargs), take(4, **kwargs))


def test_targets_are_float():
  dataset = Fake(shape=(3,), classes=2, task='regression')
  (batch,) = eval_batches(dataset, 'test', batch_size=32)
  assert batch.y.shape == (32, 2) and batch.y.dtype == np.float32


BAD = {
    'label': ({'where': 'y', 'bad': 10}, r'label 10,.* 0 to 9'),
    'negative label': ({'where': 'y', 'bad': -1}, r'label -1,.* 0 to 9'),
    'nan': ({'bad': np.nan}, r'values in x that are not finite'),
    'infinity': ({'bad': np.inf}, r'values in x that are not finite'),
    'target': (
        {'where': 'y', 'task': 'regression'},
        r'values in y that are not finite',
    ),
    'weight': ({'where': 'weight', 'bad': -0.5}, r'weights below 0'),
    'weight nan': (
        {'where': 'weight'},
        r'values in weight that are not finite',
    ),
    'weight infinity': (
        {'where': 'weight', 'bad': np.inf},
        r'values in weight that are not finite',
    ),
}


@pytest.mark.parametrize('case', BAD)
@pytest.mark.parametrize('read_ahead', [0, 4])
def test_bad_examples_are_named(case, read_ahead):
  fields, message = BAD[case]
  dataset = Spoilt(shape=(3,), **fields)
  batches = eval_batches(
      dataset, 'test', batch_size=8, read_ahead=read_ahead
  )
  assert [next(batches).id[0] for _ in range(2)] == [0, 8]
  with pytest.raises(ValueError, match=message) as e:
    next(batches)
  for part in ('Spoilt(', "'test'", 'id [17]', 'Correct the data'):
    assert part in str(e.value)


def test_bad_examples_are_named_from_workers():
  dataset = Spoilt(shape=(3,))
  with pytest.raises(ValueError, match=r'not finite.* id \[17\]'):
    list(eval_batches(dataset, 'test', batch_size=8, workers=1))


@pytest.mark.parametrize(
    'kwargs, message',
    [
        ({'batch_size': 0}, r'batch_size is 0'),
        ({'batch_size': -8}, r'batch_size is -8'),
        ({'batch_size': 9, 'shard_count': 2}, r'batch_size .* multiple of 2'),
        ({'batch_size': 49}, r'batch_size is 49, .* 48 examples'),
        ({'workers': -1}, r'workers is -1'),
        ({'read_ahead': -1}, r'read_ahead is -1'),
    ],
)
def test_errors_come_at_once(kwargs, message):
  with pytest.raises(ValueError, match=message):
    train_batches(SMALL, **{'batch_size': 16, 'seed': 0, **kwargs})
  if kwargs.get('batch_size') != 49:
    with pytest.raises(ValueError, match=message):
      eval_batches(SMALL, 'test', **{'batch_size': 16, **kwargs})


def test_weights_of_the_data_are_those_of_the_batch():
  weight = np.linspace(0, 3, 32)

  @dataclasses.dataclass(frozen=True)
  class Weighted(Fake):
    def load(self, split):
      plain = super().load(split)
      return ArraySource(plain.x, plain.y, weight[: len(plain)])

  dataset = Weighted(shape=(3,), n_train=32, n_test=30)
  batch = next(train_batches(dataset, batch_size=16))
  np.testing.assert_array_equal(batch.weight, weight.astype('f4')[batch.id])
  *_, last = eval_batches(dataset, 'test', batch_size=16)
  np.testing.assert_array_equal(last.weight[:14], weight.astype('f4')[16:30])
  assert last.weight.dtype == np.float32 and not last.weight[14:].any()


@dataclasses.dataclass(frozen=True)
class Texts(Dataset):
  """Tokens with a mask, of which no one learns anything."""

  dtype: str = 'int32'
  labels: str = 'int32'
  length: int = 5

  @property
  def input_spec(self):
    return {
        'tokens': jax.ShapeDtypeStruct((5,), np.int32),
        'mask': jax.ShapeDtypeStruct((5,), np.bool_),
    }

  @property
  def likelihood(self):
    return Categorical(3)

  def load(self, split):
    rng = np.random.RandomState(split == 'train')
    tokens = rng.randint(100, size=(10, self.length)).astype(self.dtype)
    x = {'tokens': tokens, 'mask': rng.rand(10, self.length) < 0.5}
    return ArraySource(x, rng.randint(3, size=10).astype(self.labels))

  def augment(self, x, rng):
    return {**x, 'mask': x['mask'] & (rng.random(self.length) < 0.5)}


@pytest.mark.parametrize('workers', [0, slow(1)])
def test_inputs_may_be_a_tree(workers):
  dataset = Texts()
  raw = dataset.load('train').x
  batch = next(train_batches(dataset, batch_size=10, workers=workers))
  np.testing.assert_array_equal(batch.x['tokens'], raw['tokens'][batch.id])
  assert batch.x['tokens'].dtype == np.int32
  assert batch.x['mask'].dtype == np.bool_
  assert (batch.x['mask'] <= raw['mask'][batch.id]).all()
  assert batch.x['mask'].sum() < raw['mask'].sum()
  *_, last = eval_batches(dataset, 'test', batch_size=4, workers=workers)
  raw = dataset.load('test').x
  for name in raw:
    np.testing.assert_array_equal(last.x[name][:2], raw[name][8:])
    assert last.x[name].shape == (4, 5) and not last.x[name][2:].any()
  assert last.mask.tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(
    'dataset, message',
    [
        (
            Texts(dtype='int64'),
            r"x of the form .*'tokens': 'int64\[5\]'.*spec says .*int32\[5\]",
        ),
        (Texts(length=4), r"'tokens': 'int32\[4\]'.*spec says .*int32\[5\]"),
        (
            Texts(labels='float32'),
            r'has floats as y .*needs int32\[\]: class labels are integers',
        ),
    ],
)
def test_data_that_do_not_fit_their_spec(dataset, message):
  for batches in (
      train_batches(dataset, batch_size=4),
      eval_batches(dataset, 'test', batch_size=4),
  ):
    with pytest.raises(ValueError, match=message + '.*Correct the data'):
      next(batches)


@dataclasses.dataclass(frozen=True)
class Cast(Fake):
  """Its arrays are stored with other types."""

  x_dtype: str = 'float32'
  y_dtype: str = 'int32'

  def load(self, split):
    clean = super().load(split)
    y = clean.y.astype(self.y_dtype)
    return ArraySource(clean.x.astype(self.x_dtype), y)


@pytest.mark.parametrize(
    'fields, message',
    [
        ({'x_dtype': 'float64'}, r'x of the form float64\[3\].*float32\[3\]'),
        ({'x_dtype': 'float16'}, r'x of the form float16\[3\].*float32\[3\]'),
        (
            {'y_dtype': 'float32'},
            r'floats as y \(float32\[\]\), but Categorical\(.*are integers',
        ),
        (
            {'y_dtype': 'int32', 'task': 'regression', 'classes': 2},
            r'integers as y \(int32\[2\]\), but Gaussian\(.*floats',
        ),
    ],
)
def test_types_are_not_changed_silently(fields, message):
  dataset = Cast(shape=(3,), **fields)
  with pytest.raises(ValueError, match=message) as e:
    next(eval_batches(dataset, 'test', batch_size=8))
  assert 'Correct the data' in str(e.value) and 'Cast(' in str(e.value)


@pytest.mark.parametrize('dtype', ['uint8', 'int64'])
def test_labels_of_any_integers(dtype):
  batch = next(eval_batches(Cast(shape=(3,), y_dtype=dtype), 'test', 8))
  assert batch.y.dtype == np.int32


def test_targets_of_another_width():
  dataset = Cast(
      shape=(3,), task='regression', classes=2, y_dtype='float64'
  )
  assert next(eval_batches(dataset, 'test', 8)).y.dtype == np.float32


@pytest.mark.parametrize('depth', [0, 1, 2, 5])
def test_prefetch_keeps_batches_in_flight(depth):
  put = []

  def transfer(batch):
    put.append(batch)
    return batch

  for i, batch in enumerate(prefetch(iter(range(4)), transfer, depth)):
    assert batch == i
    assert len(put) == min(4, i + 1 + depth)
  assert put == [0, 1, 2, 3]


def test_blank_batches_after_an_error():
  def torn(good):
    yield from range(good)
    raise OSError('torn')

  batches = BatchesThenBlanks(torn(2), lambda: 'blank')
  assert [next(batches) for _ in range(2)] == [0, 1] and batches.error is None
  assert [next(batches) for _ in range(2)] == ['blank'] * 2
  assert str(batches.error) == 'torn'
  with pytest.raises(OSError, match='torn'):
    next(BatchesThenBlanks(torn(0), lambda: 'blank'))


def test_prefetch_gives_what_came_before_an_error():
  def torn():
    yield from range(3)
    raise OSError('torn')

  found = prefetch(torn(), lambda batch: batch)
  assert [next(found) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(OSError, match='torn'):
    next(found)
