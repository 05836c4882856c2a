"""Batches that Grain reads ahead, in threads or in processes."""

from collections.abc import Iterator
from typing import Any, TypeVar
import weakref

from absl import flags
import jax
import numpy as np

from flax_enn.core import Batch
from flax_enn.data.batching import Problems

T = TypeVar('T')


def read(
    stream: Any, workers: int, read_ahead: int
) -> Iterator[tuple[Batch, Problems]]:
  """Iterates over a `grain.MapDataset` of batches.

  Args:
    stream: the batches.
    workers: processes that read; 0 reads in threads of this one.
    read_ahead: batches to have ready.
  """
  import grain

  if not workers:
    threads = grain.ReadOptions(
        num_threads=min(read_ahead, 16),
        prefetch_buffer_size=read_ahead,
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
      .map(lambda found: (jax.tree.map(np.array, found[0]), found[1]))
  )
  box = [iter(copies)]
  batches = _drain(box)
  # Grain's own clean-up comes too late when Python is about to exit.
  weakref.finalize(batches, lambda: box.pop().close())
  return batches


def _drain(box: list[Iterator[T]]) -> Iterator[T]:
  """Reads an iterator that can be taken away, by emptying its box."""
  while box and (batch := next(box[0], None)) is not None:
    yield batch
