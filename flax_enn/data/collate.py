"""From examples to a batch, with what is checked on the way."""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import numpy as np

from flax_enn.core import Batch
from flax_enn.data.base import Dataset, Element, Source


@dataclasses.dataclass(frozen=True)
class Padded:
  """A source with blank examples of mask 0 at its end.

  Attributes:
    source: the examples.
    length: how many there are with the blank ones.
  """

  source: Source
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Element:
    return self.source[index] if index < len(self.source) else self.blank

  @functools.cached_property
  def blank(self) -> Element:
    """Looks like an example and is none."""
    zeros = jax.tree.map(np.zeros_like, self.source[0])
    return {**zeros, 'id': np.int32(-1), 'mask': 0.0}


@dataclasses.dataclass(frozen=True)
class Collate:
  """Stacks examples to a batch, and lets none pass that would spoil a run.

  Attributes:
    dataset: the data set as errors name it.
    split: likewise.
    labels: number of classes, or None for a regression.
  """

  dataset: str
  split: str
  labels: int | None

  @classmethod
  def of(cls, dataset: Dataset, split: str) -> 'Collate':
    """For one split of a data set."""
    labels = dataset.classes if dataset.task == 'classification' else None
    return cls(repr(dataset), split, labels)

  def __call__(self, elements: Sequence[Element]) -> Batch:
    batch = Batch(
        x=jax.tree.map(lambda *x: np.stack(x), *(e['x'] for e in elements)),
        y=np.stack([e['y'] for e in elements]),
        weight=np.ones(len(elements), np.float32),
        id=np.array([e['id'] for e in elements], np.int32),
        mask=np.array([e.get('mask', 1.0) for e in elements], np.float32),
    )
    for name, values in (('x', batch.x), ('y', batch.y)):
      for leaf in jax.tree.leaves(values):
        bad = ~np.isfinite(leaf).reshape(len(elements), -1).all(axis=1)
        if bad.any():
          raise self._error(batch, bad, f'values in {name} that are not finite')
    if self.labels is None:
      return batch
    bad = (batch.y < 0) | (batch.y >= self.labels)
    if bad.any():
      raise self._error(
          batch,
          bad,
          f'the label {batch.y[bad][0]}, but labels are 0 to {self.labels - 1}',
      )
    return batch.replace(y=batch.y.astype(np.int32))

  def _error(self, batch: Batch, bad: np.ndarray, found: str) -> ValueError:
    return ValueError(
        f'the split {self.split!r} of {self.dataset} has {found}; see the'
        f' examples with id {batch.id[bad].tolist()}. Correct the data or the'
        ' fields of config.dataset'
    )
