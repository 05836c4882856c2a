"""Streams of batches from a data set, the same on any number of hosts.

The global batch s of training is the global positions [s B, (s + 1) B) of one
endless stream of shuffled epochs, and shard h of H holds the rows
[h B / H, (h + 1) B / H) of it. Order and augmentation are a pure function of
the seed and the global position, so that a step alone restores the stream.

Grain reads the examples, one by one. Those that lie in arrays are taken, and
augmented where the data set can, a batch at a time, to the same stream.

Worker processes start afresh from the main module: a script that uses them
keeps what it runs under `if __name__ == '__main__':`.
"""

from collections.abc import Callable, Iterator, MutableMapping
import dataclasses
import sys
from typing import Any

import numpy as np

from flax_enn.core import Batch
from flax_enn.data import grain_batches
from flax_enn.data.base import Dataset, DataSpec
from flax_enn.data.batching import Batcher, Padded, Problems
from flax_enn.data.in_memory import Taken, in_memory
from flax_enn.data.order import Order
from flax_enn.data.reader import Reader, WithIds, counted
from flax_enn.data.row_generators import RowGenerators

SPLITS = ('train', 'validation', 'test')

# Of these fields; what is above is taken for a slip.
_MOST = {'workers': 4096, 'read_ahead': 10**5, 'skip_bad': 10**6}

# Grain is imported where it is used: it takes as long to import as JAX.


@dataclasses.dataclass(frozen=True)
class Loader:
  """How a data set is read.

  Attributes:
    holdout: fraction of the training split that is served as `'validation'`
      instead.
    workers: processes that read; 0 reads in threads of this one.
    read_ahead: batches to have ready, where Grain reads.
    skip_bad: examples that cannot be read and may be passed over, with mask 0:
      so many different ones of a split, at most, counted by each host.
    shard_index: which shard of every batch is read here.
    shard_count: how many there are.
  """

  holdout: float = 0.0
  workers: int = 0
  read_ahead: int = 16
  skip_bad: int = 0
  shard_index: int = 0
  shard_count: int = 1

  def __post_init__(self):
    if not 0 <= self.holdout < 1:
      raise ValueError(
          f'holdout is {self.holdout}; it is the fraction of the training split'
          ' to keep out of training: at least 0 and below 1'
      )
    for field, most in _MOST.items():
      value = getattr(self, field)
      if not 0 <= value <= most:
        raise ValueError(
            f'{field} is {value}; it must be at least 0 and at most {most}'
        )

  def source(self, dataset: Dataset, split: str) -> WithIds:
    """The examples of a split, numbered: `{'x', 'y', 'id', …}`.

    The part of the training split that is kept out of training is chosen by a
    fixed permutation: it depends on no seed, and a larger part holds a smaller.

    Raises:
      ValueError: the split does not exist, has no examples, or is known to have
        more than may be passed over that cannot be read.
    """
    examples, rows = self._split(dataset, split)
    known = getattr(examples, 'unreadable', {})
    bad = [i for i, row in enumerate(rows) if row in known] if known else []
    if len(bad) > self.skip_bad:
      raise ValueError(
          f'{len(bad)} of the examples of the split {split!r} of {dataset}'
          f' cannot be read, and skip_bad is {self.skip_bad}; see those with id'
          f' {bad[:5]}, the first of them: {known[int(rows[bad[0]])]}. Repair'
          ' them, or set skip_bad to as many as may be passed over'
      )
    return WithIds(examples, rows)

  def _split(self, dataset: Dataset, split: str) -> tuple[Any, np.ndarray]:
    """A source of examples, and which of them are the split."""
    if split not in SPLITS:
      raise ValueError(f'there is no split {split!r}; the splits are {SPLITS}')
    if split == 'test':
      examples = dataset.load('test')
      if not len(examples):
        raise ValueError(f'the split {split!r} of {dataset} is empty')
      return examples, np.arange(len(examples))
    examples = dataset.load('train')
    held = round(self.holdout * len(examples))
    # The stream of RandomState is frozen for all versions of numpy (NEP 19).
    order = np.random.RandomState(0).permutation(len(examples))
    rows = order[:held] if split == 'validation' else np.sort(order[held:])
    if not len(rows):
      raise ValueError(
          f'the split {split!r} is empty: holdout is'
          f' {self.holdout}, which keeps {held} of {len(examples)} examples out'
          ' of training'
      )
    return examples, rows

  def reader(
      self, dataset: Dataset, split: str, fn: Callable[..., Any]
  ) -> Reader:
    """Reads the examples of a split by their id, with `fn` of x as x."""
    where = f'{dataset}, split {split!r}'
    return Reader(self.source(dataset, split), fn, where, self.skip_bad)

  def train_batches(
      self, dataset: Dataset, spec: DataSpec, *,
      batch_size: int, seed: int, start: int = 0,
      skipped: MutableMapping[int, str] | None = None,
  ) -> Iterator[Batch]:  # fmt: skip
    """Streams this shard of the training batches, without end.

    Every epoch visits each example once, in an order of its own; a batch may
    begin in one epoch and end in the next.

    Args:
      dataset: what to read.
      spec: what its data must be.
      batch_size: B, examples in a batch over all shards.
      seed: of order and augmentation.
      start: number of batches to skip, at no cost.
      skipped: gets id -> what is wrong with each example that is passed over;
        those that are in it count.

    Returns:
      Batches of numpy arrays `[B / shard_count, ...]`.

    Raises:
      ValueError: a batch size that cannot be had, at once; and, while reading,
        data that do not fit their spec, and more examples that cannot be read
        than may be passed over.
    """
    fn = dataset.augment if dataset.augments else dataset.preprocess
    reader = self.reader(dataset, 'train', fn)
    rows = self._rows(batch_size)
    if batch_size > len(reader):
      raise ValueError(
          f'batch_size is {batch_size}, but the training split of'
          f' {dataset} has {len(reader)} examples; set it to'
          ' that or less'
      )
    # Grain adds the epoch to its seed: mixed first, two seeds share no epoch.
    order_seed, augment_seed = map(
        int, np.random.SeedSequence(seed).generate_state(2)
    )
    batcher = Batcher(repr(dataset), 'train', spec)
    changes = fn if dataset.augments and dataset.augments_batches else None
    if not self.workers and (held := in_memory(reader, batcher, rows, changes)):
      order = Order(len(reader), order_seed)
      first = start * batch_size + self.shard_index * rows
      at = range(first, sys.maxsize, batch_size)
      return Taken(
          held,
          (order(i, i + rows) for i in at),
          (RowGenerators(augment_seed, np.arange(i, i + rows)) for i in at)
          if changes
          else None,
      )
    import grain

    order = grain.MapDataset.range(len(reader)).shuffle(order_seed).repeat()
    if dataset.augments:
      stream = order.random_map(reader, seed=augment_seed)
    else:
      stream = order.map(reader)
    stream = stream.batch(rows, batch_fn=batcher)
    return counted(self._read(stream, start), self.skip_bad, skipped)

  def eval_batches(
      self, dataset: Dataset, split: str, spec: DataSpec, *,
      batch_size: int, start: int = 0,
      skipped: MutableMapping[int, str] | None = None,
  ) -> Iterator[Batch]:  # fmt: skip
    """Streams this shard of a split once, in order.

    The last batch is filled up with rows of mask 0 and id -1, so that every
    process has the same number of batches.

    Args:
      dataset: what to read.
      split: `'train'`, `'validation'` or `'test'`.
      spec: what its data must be, and how they are preprocessed.
      batch_size: B, examples in a batch over all shards.
      start: number of batches to skip, at no cost.
      skipped: as in `train_batches`.

    Returns:
      Batches of numpy arrays `[B / shard_count, ...]`.

    Raises:
      ValueError: as in `train_batches`.
    """
    reader = self.reader(dataset, split, spec.preprocess)
    rows = self._rows(batch_size)
    length = -(-len(reader) // batch_size) * batch_size
    batcher = Batcher(repr(dataset), split, spec)
    if not self.workers and (held := in_memory(reader, batcher, rows)):
      ids = np.where(np.arange(length) < len(reader), np.arange(length), -1)
      shares = ids.reshape(-1, self.shard_count, rows)
      return Taken(held, shares[start:, self.shard_index])
    import grain

    stream = grain.MapDataset.source(Padded(reader, length)).batch(
        rows, batch_fn=batcher
    )
    return counted(self._read(stream, start), self.skip_bad, skipped)

  def _rows(self, batch_size: int) -> int:
    """Rows of a batch in each shard."""
    if batch_size < 1:
      raise ValueError(
          f'batch_size is {batch_size}; it must be at least 1'
      )
    if batch_size % self.shard_count:
      raise ValueError(
          f'batch_size is {batch_size}, which the {self.shard_count}'
          ' hosts do not divide; set it to a multiple of'
          f' {self.shard_count}'
      )
    return batch_size // self.shard_count

  def _read(self, stream: Any, start: int) -> Iterator[tuple[Batch, Problems]]:
    """Reads this shard of a `grain.MapDataset` of batches."""
    first = start * self.shard_count + self.shard_index
    stream = stream[first :: self.shard_count]
    return grain_batches.read(stream, self.workers, self.read_ahead)
