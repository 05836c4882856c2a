"""Examples that cannot be read are named, or passed over with mask 0."""

import dataclasses
import itertools
import shutil
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter
import jax
import numpy as np
import pytest

from flax_enn.data.digits import Digits
from flax_enn.data.fake import Fake
from flax_enn.data.tfds_images import TfdsImages
from tests.data.reading import eval_batches, train_batches


@dataclasses.dataclass(frozen=True)
class Torn:
  """A source some of whose records cannot be read."""

  examples: Any
  bad: tuple[int, ...]

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, index):
    if index in self.bad:
      raise KeyError('torn')
    return self.examples[index]


@dataclasses.dataclass(frozen=True)
class TornFake(Fake):
  """Noisy inputs; the errors are found when records are read."""

  shape: tuple[int, ...] = (3,)
  n_train: int = 24
  n_test: int = 20
  torn: tuple[int, ...] = (5, 6, 19)

  def load(self, split):
    return Torn(super().load(split), self.torn)

  def augment(self, x, rng):
    return x + rng.random(dtype=np.float32)


CLEAN = dataclasses.replace(TornFake(), torn=())


def take(n, dataset, **options):
  options = {'batch_size': 8, 'seed': 1, **options}
  return list(itertools.islice(train_batches(dataset, **options), n))


@pytest.mark.parametrize('workers', [0, 1])
def test_training_passes_over_them(workers):
  """All else is as if they were whole, for two epochs."""
  skipped = {}
  found = take(6, TornFake(), skip_bad=3, workers=workers, skipped=skipped)
  for got, whole in zip(found, take(6, CLEAN)):
    bad = np.isin(whole.id, [5, 6, 19])
    np.testing.assert_array_equal(got.id, whole.id)
    np.testing.assert_array_equal(got.mask, ~bad)
    np.testing.assert_array_equal(got.x[~bad], whole.x[~bad])
    assert np.isfinite(got.x).all() and (got.x[bad] != 0).all()
  assert sorted(skipped) == [5, 6, 19]
  assert skipped[6].startswith('the example with id 6 of TornFake(')
  assert skipped[6].endswith("split 'train': KeyError: 'torn'")


def test_hosts_agree_on_what_stands_in():
  one = take(4, TornFake(), skip_bad=3)
  shares = [
      take(4, TornFake(), skip_bad=3, shard_index=h, shard_count=2)
      for h in range(2)
  ]
  for batch, *parts in zip(one, *shares):
    whole = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    jax.tree.map(np.testing.assert_array_equal, batch, whole)


def test_evaluation_passes_over_them():
  skipped = {}
  *_, last = eval_batches(
      TornFake(), 'test', batch_size=8, skip_bad=3, skipped=skipped
  )
  assert last.id.tolist() == [16, 17, 18, 19, -1, -1, -1, -1]
  assert last.mask.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
  assert sorted(skipped) == [5, 6, 19]


@pytest.mark.parametrize(
    'skip_bad, known, says',
    [
        (0, {}, r'id (5|6|19) .*Repair this.* set skip_bad \(0\)'),
        (2, {}, r'id \d+ .*With it 3 examples cannot .* skip_bad is 2;'),
        (3, {0: 'before'}, r'With it 4 examples cannot .* skip_bad is 3;'),
        (1, {5: '', 6: '', 19: ''}, r'With it 3 examples .* skip_bad is 1;'),
    ],
    ids=['none', 'one too few', 'one before', 'made smaller'],
)
def test_more_than_may_be_passed_over(skip_bad, known, says):
  with pytest.raises(ValueError, match=says):
    take(3, TornFake(), skip_bad=skip_bad, skipped=known)


def test_an_example_of_another_shape_is_named():
  @dataclasses.dataclass(frozen=True)
  class Ragged(Fake):
    def augment(self, x, rng):
      return x[:1] if x is self.odd else x

    def load(self, split):
      examples = super().load(split)
      object.__setattr__(self, 'odd', examples.x[3])
      examples = [examples[i] for i in range(8)]
      examples[3]['x'] = self.odd
      return examples

  with pytest.raises(ValueError, match=r'shape \(1,\) in .* id \[3\], and \(3'):
    take(1, Ragged(shape=(3,)))


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  path = tmp_path_factory.mktemp('tfds')
  Digits(data_dir=str(path)).load('test')
  return path


@pytest.fixture
def records(prepared, tmp_path):
  """The file of the test split in a copy of the prepared digits."""
  shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
  (path,) = tmp_path.rglob('*-test.array_record-*')
  return path


def flip(path, at):
  content = bytearray(path.read_bytes())
  content[at] ^= 255
  path.write_bytes(content)


def test_a_damaged_record_is_named_by_a_set_that_is_read_as_it_goes(records):
  flip(records, 20_000)
  dataset = TfdsImages(
      tfds_name='sklearn_digits:1.0.0', data_dir=str(records.parents[2])
  )
  says = r"the example with id \d+ of TfdsImages.*'test': .* damaged: Corrupted"
  with pytest.raises(ValueError, match=says):
    list(eval_batches(dataset, 'test', 60))
  (batch,) = eval_batches(dataset, 'test', 360, skip_bad=1)
  assert batch.mask.sum() == 359


def test_a_damaged_record_is_named_by_a_set_in_memory(records):
  flip(records, 20_000)
  data_dir = str(records.parents[2])
  # At once, and not when a batch comes to it.
  says = r"^1 of .* 'test' of Digits.* id \[\d+\], .*Corrupted.* set skip_bad"
  with pytest.raises(ValueError, match=says):
    eval_batches(Digits(data_dir=data_dir), 'test', 60)
  (batch,) = eval_batches(Digits(data_dir=data_dir), 'test', 360, skip_bad=1)
  assert batch.mask.sum() == 359


def test_records_of_another_set_are_named(records):
  records.unlink()
  writer = ArrayRecordWriter(str(records), 'group_size:1')
  for content in (b'garbage', b''):
    writer.write(content)
  writer.close()
  source = TfdsImages(
      tfds_name='sklearn_digits:1.0.0', data_dir=str(records.parents[2])
  ).load('test')
  for index in range(3):
    with pytest.raises(ValueError, match='damaged'):
      source[index]


def test_a_file_that_cannot_be_read_now_is_no_damage(records):
  dataset = TfdsImages(
      tfds_name='sklearn_digits:1.0.0', data_dir=str(records.parents[2])
  )
  batches = eval_batches(dataset, 'test', 60, skip_bad=9)
  records.unlink()
  with pytest.raises(OSError, match=r'record \d+ cannot be read: open'):
    next(batches)
