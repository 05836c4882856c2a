"""The pool of active learning: a training split whose labels are hidden."""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from flax_enn.active_learning.items import Items, compares_items
from flax_enn.core import Batch, Index
from flax_enn.data.base import Source, Wrapped, chosen
from flax_enn.inference.functions import Functions
from flax_enn.inference.programs import Programs
from flax_enn.model import num_eval_indices
from flax_enn.training.trainer import Trainer

_ROWS = 1024  # examples that are read at once where no network sees them


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Part(Wrapped):
  """A data set of whose training split some examples are there.

  Attributes:
    source: its training split.
    rows: `[n]` those that are there.
  """

  source: Source
  rows: np.ndarray

  def load(self, split: str) -> Source:
    if split != 'train':
      return self.dataset.load(split)
    return chosen(self.source, self.rows)

  def __repr__(self) -> str:
    return f'{len(self.rows)} examples of {self.dataset}'


class Pool:
  """The training split, less what is held out; an id is a place in it."""

  def __init__(self, trainer: Trainer):
    """Opens the data set.

    Args:
      trainer: whose data, model and mesh it has.
    """
    loader = trainer.loader
    self.trainer, self.model = trainer, trainer.model
    self.loader = dataclasses.replace(loader, holdout=0.0)  # it is taken out
    self._rows = loader.source(trainer.dataset, 'train').rows
    self._source = trainer.dataset.load('train')

  def __len__(self) -> int:
    return len(self._rows)

  def part(self, ids: Any) -> Part:
    """The data set with these examples of the training split alone."""
    return Part(self.trainer.dataset, self._source, self._rows[ids])

  def batches(self, ids: np.ndarray) -> Iterator[Batch]:
    """This process's shard of the examples, in order; their ids are places."""
    return self.loader.eval_batches(
        self.part(ids),
        'train',
        self.model.spec,
        batch_size=self.trainer.config.batch_size,
    )

  def read(self, ids: np.ndarray) -> Iterator[Batch]:
    """All of the examples on every process, in batches without padding.

    One that cannot be read has a stand-in, with mask 0.
    """
    whole = dataclasses.replace(self.loader, shard_index=0, shard_count=1)
    batches = whole.eval_batches(
        self.part(ids), 'train', self.model.spec, batch_size=_ROWS
    )
    for batch in batches:
      real = batch.id >= 0
      yield jax.tree.map(lambda leaf, real=real: leaf[real], batch)

  def indices(self, key: jax.Array, n: int | None = None) -> Index:
    """`[n, ...]` indices; by default as many as an evaluation has."""
    n = n or num_eval_indices(self.trainer.config, self.model)
    return self.model.network.indexer.sample(key, n)

  @functools.cached_property
  def programs(self) -> Programs:
    """What a predictor of the model would run; each is compiled once."""
    trainer = self.trainer
    return Programs(
        self.model, trainer.mesh, trainer.rules, Functions(self.model)
    )

  @functools.cached_property
  def items(self) -> Items | None:
    """Where the network has rewards of items, those of all pairs, at once."""
    if not compares_items(self.model):
      return None
    return Items.of(
        self.programs, concatenated([*self.read(np.arange(len(self)))])
    )


def concatenated(batches: Sequence[Batch]) -> Batch:
  """One batch of all their examples."""
  return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)
