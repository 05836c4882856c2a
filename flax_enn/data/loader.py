"""Streams of batches from a data set, the same on any number of hosts.

The global batch s of training is the global positions [s B, (s + 1) B) of one
endless stream of shuffled epochs, and host h of H holds the rows
[h B / H, (h + 1) B / H) of it. Order and augmentation are a pure function of
the seed and the global position, so that a step alone restores the stream.

Worker processes start afresh from the main module: a script that uses them
keeps what it runs under `if __name__ == '__main__':`.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar
import weakref

from absl import flags
import jax
import numpy as np

from flax_enn.core import Batch
from flax_enn.data.base import Dataset, Preprocessed
from flax_enn.data.collate import Collate, Padded

T = TypeVar('T')

# Grain is imported where it is used: it takes as long to import as JAX.


def train_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    workers: int = 0,
    read_ahead: int = 16,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
  """Streams this host's share of the training batches, without end.

  Every epoch visits each example once, in an order of its own; a batch may
  begin in one epoch and end in the next.

  Args:
    dataset: what to read.
    batch_size: B, examples in a batch over all hosts.
    seed: of order and augmentation.
    start: number of batches to skip, at no cost.
    workers: processes that read; 0 reads in threads of this one.
    read_ahead: batches to have ready.
    host: number of this host.
    hosts: how many there are.

  Returns:
    Batches of numpy arrays `[B / hosts, ...]`.

  Raises:
    ValueError: a batch size that cannot be had, at once; and, while reading,
      labels that are no class and values that are not finite.
  """
  import grain

  source = dataset.source('train')
  rows = _rows(batch_size, hosts)
  if batch_size > len(source):
    raise ValueError(
        f'config.batch_size is {batch_size}, but the training split of'
        f' {dataset} has {len(source)} examples; set config.batch_size to that'
        ' or less'
    )
  # Grain adds the epoch to its seed: mixed first, two seeds share no epoch.
  order_seed, augment_seed = map(
      int, np.random.SeedSequence(seed).generate_state(2)
  )
  stream = (
      grain.MapDataset.source(source)
      .shuffle(order_seed)
      .repeat()
      .random_map(dataset.augment, seed=augment_seed)
      .batch(rows, batch_fn=Collate.of(dataset, 'train'))
  )
  return _read(stream[start * hosts + host :: hosts], workers, read_ahead)


def eval_batches(
    dataset: Dataset,
    split: str,
    *,
    batch_size: int,
    start: int = 0,
    workers: int = 0,
    read_ahead: int = 16,
    host: int = 0,
    hosts: int = 1,
) -> Iterator[Batch]:
  """Streams this host's share of a split once, in order.

  The last batch is filled up with rows of mask 0 and id -1, so that every host
  has the same number of batches.

  Args:
    dataset: what to read.
    split: `'train'`, `'validation'` or `'test'`.
    batch_size: B, examples in a batch over all hosts.
    start: number of batches to skip, at no cost.
    workers: processes that read; 0 reads in threads of this one.
    read_ahead: batches to have ready.
    host: number of this host.
    hosts: how many there are.

  Returns:
    Batches of numpy arrays `[B / hosts, ...]`.

  Raises:
    ValueError: as in `train_batches`.
  """
  import grain

  source = Preprocessed(dataset.source(split), dataset)
  rows = _rows(batch_size, hosts)
  length = -(-len(source) // batch_size) * batch_size
  stream = grain.MapDataset.source(Padded(source, length)).batch(
      rows, batch_fn=Collate.of(dataset, split)
  )
  return _read(stream[start * hosts + host :: hosts], workers, read_ahead)


def prefetch(
    batches: Iterable[Any], put: Callable[[Any], T], depth: int = 2
) -> Iterator[T]:
  """Starts the transfer of batches before they are asked for.

  Args:
    batches: on the host.
    put: starts the transfer of one and returns what will hold it, without
      waiting, such as `lambda batch: sharding.put_batch(batch, mesh)`.
    depth: batches in flight while one is worked on.

  Yields:
    What `put` returned, in order.
  """
  flight = collections.deque()
  for batch in batches:
    flight.append(put(batch))
    if len(flight) > depth:
      yield flight.popleft()
  yield from flight


def _rows(batch_size: int, hosts: int) -> int:
  """Rows of a batch on each host."""
  if batch_size < 1:
    raise ValueError(
        f'config.batch_size is {batch_size}; it must be at least 1'
    )
  if batch_size % hosts:
    raise ValueError(
        f'config.batch_size is {batch_size}, which the {hosts} hosts do not'
        f' divide; set config.batch_size to a multiple of {hosts}'
    )
  return batch_size // hosts


def _read(stream: Any, workers: int, read_ahead: int) -> Iterator[Batch]:
  """Iterates over a `grain.MapDataset` of batches, reading ahead."""
  import grain

  for field, value in (('workers', workers), ('read_ahead', read_ahead)):
    if value < 0:
      raise ValueError(
          f'config.dataset.{field} is {value}; it must be at least 0'
      )
  if not workers:
    threads = grain.ReadOptions(
        num_threads=min(read_ahead, 16), prefetch_buffer_size=read_ahead
    )
    return iter(stream.to_iter_dataset(threads))
  # Grain reads flags when it starts workers; outside absl.app.run no one has
  # parsed them, and their defaults are right.
  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
  unthreaded = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  processes = grain.MultiprocessingOptions(
      num_workers=workers,
      per_worker_buffer_size=max(1, read_ahead // workers),
  )
  # Copied out of shared memory, which must not outlive the workers.
  copies = (
      stream.to_iter_dataset(unthreaded)
      .mp_prefetch(processes)
      .map(lambda batch: jax.tree.map(np.array, batch))
  )
  box = [iter(copies)]
  batches = _drain(box)
  # Grain's own clean-up comes too late when Python is about to exit.
  weakref.finalize(batches, lambda: box.pop().close())
  return batches


def _drain(box: list[Iterator[Batch]]) -> Iterator[Batch]:
  """Reads an iterator that can be taken away, by emptying its box."""
  while box and (batch := next(box[0], None)) is not None:
    yield batch
