"""A data set of which some classes are (almost) never seen in training."""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np

from flax_enn.data.base import (
    ArraySource,
    Source,
    Wrapped,
    check_numbers,
    chosen,
)

TESTS = ('whole', 'in', 'out')


@dataclasses.dataclass(frozen=True)
class HeldOutClasses(Wrapped):
  """Training without some classes, evaluation with, without or on these alone.

  enn's `make_ood_transformers`. Labels keep their numbers, so that the network
  has outputs for all classes. Three evaluations in one run:

    config.evals = {
        kind: {'dataset': {**config.dataset, 'test': kind}}
        for kind in ('whole', 'in', 'out')
    }

  Attributes:
    dataset: of labels.
    classes: that are held out, some and not all; None to draw them, as enn
      does.
    fraction: of all classes, how many are drawn, rounded down.
    train_share: of the training split, how much is of classes held out.
    test: what the test split has: `'whole'`, `'in'` distribution or `'out'`.
    seed: of classes that are drawn, and of the share in training.
  """

  classes: Sequence[int] | None = None
  fraction: float = 0.2
  train_share: float = 0.001
  test: str = 'whole'
  seed: int = 321

  def __post_init__(self):
    if self.test not in TESTS:
      raise ValueError(f'test is {self.test!r}; known: {", ".join(TESTS)}')
    for name in ('fraction', 'train_share'):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(
            f'{name} is {getattr(self, name)}; set it from 0 to below 1'
        )
    check_numbers(self, (), ('seed',))

  @functools.cached_property
  def held_out(self) -> tuple[int, ...]:
    """The classes that are held out.

    Raises:
      ValueError: there are no classes, or none or all of them are held out.
    """
    total = self.dataset.likelihood.num_classes
    if total is None:
      raise ValueError(
          f'dataset has {self.dataset.likelihood}, which has no classes'
      )
    field, found = 'classes', self.classes
    if found is None:
      rng, field = np.random.default_rng(self.seed), 'fraction'
      size = int(self.fraction * total)
      found = rng.choice(range(total), size=size, replace=False).tolist()
    found = tuple(found)
    if not found or not set(found) < set(range(total)):
      raise ValueError(
          f'{field} is {getattr(self, field)}, which holds out {found} of the'
          f' classes 0 to {total - 1}; hold out one at least, and not all'
      )
    return found

  def load(self, split: str) -> Source:
    source = self.dataset.load(split)
    if split != 'train' and self.test == 'whole':
      return source
    out = np.isin(_labels(source), self.held_out)
    if split != 'train':
      return chosen(source, np.flatnonzero(out == (self.test == 'out')))
    # As many that their share is what is asked for.
    share = self.train_share / (1 - self.train_share)
    few = min(round(share * np.sum(~out)), np.sum(out))
    order = np.random.RandomState(self.seed).permutation(np.flatnonzero(out))
    return chosen(
        source, np.sort(np.concatenate([np.flatnonzero(~out), order[:few]]))
    )


def _labels(source: Source) -> np.ndarray:
  """`[B]` the labels of all examples; those that are not in arrays are read."""
  if isinstance(source, ArraySource):
    return source.y
  return np.array([source[i]['y'] for i in range(len(source))])
