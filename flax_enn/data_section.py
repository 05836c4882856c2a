"""From a section `dataset` of a config to the data set, and how it is read."""

from collections.abc import Iterator
from typing import Any

from flax_enn import annotations, build, kinds, sharding
from flax_enn.core import Batch
from flax_enn.data import Dataset, Loader

# Fields of `config.dataset` that are the loader's and not the data set's.
LOADER_FIELDS = ('holdout', 'workers', 'read_ahead', 'skip_bad')


def create_dataset(section: Any, path: str = 'config.dataset') -> Dataset:
  """Builds the data set that a section of a config describes.

  Args:
    section: `config.dataset`, or that of an entry of `config.evals`.
    path: of it, for errors.
  """
  fields = {k: v for k, v in section.items() if k not in LOADER_FIELDS}
  return build.build(fields, kinds.DATASET, path)


def create_loader(section: Any, where: sharding.NamedSharding) -> Loader:
  """How this process reads the data set of a section of a config.

  Args:
    section: `config.dataset`, or that of an entry of `config.evals`.
    where: sharding of a batch.
  """
  shard_index, shard_count = sharding.process_shard(where)
  hints = annotations.fields_of(Loader)
  return Loader(
      **{
          k: annotations.checked(section[k], hints[k], k)
          for k in LOADER_FIELDS
          if k in section
      },
      shard_index=shard_index,
      shard_count=shard_count,
  )


def located_batches(path: str, batches: Iterator[Batch]) -> Iterator[Batch]:
  """The batches; errors on the way get the path of their data set in front."""
  with build.located(path):
    yield from batches
