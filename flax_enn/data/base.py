"""What a data set is: numbered examples that can be read in any order."""

import abc
from collections.abc import Sequence
import dataclasses
from typing import Any, Protocol

import numpy as np

Element = dict[str, Any]

SPLITS = ('train', 'validation', 'test')


class Source(Protocol):
  """Random access to the examples of a split."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Element: ...


class Dataset(Protocol):
  """What the loader, the trainer and the evaluation know of a data set.

  A frozen dataclass whose fields are those of `config.dataset`.
  """

  @property
  def task(self) -> str:
    """`'classification'` or `'regression'`."""
    ...

  @property
  def classes(self) -> int:
    """C: classes, or outputs of a regression."""
    ...

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of one x, without the axis B."""
    ...

  @property
  def noise_std(self) -> float:
    """Standard deviation of the targets of a regression around their mean."""
    ...

  def source(self, split: str) -> Source:
    """Examples of `'train'`, `'validation'` or `'test'`.

    Each is `{'x': ..., 'y': ..., 'id': int32}`, with x as it is stored; the id
    is the number of the example in its split.

    Raises:
      ValueError: the split does not exist or has no examples.
    """
    ...

  def preprocess(self, element: Element) -> Element:
    """Makes of an example what the network sees of it in evaluation."""
    ...

  def augment(self, element: Element, rng: np.random.Generator) -> Element:
    """The same for training, at random; draws from `rng` alone."""
    ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut(abc.ABC):
  """A data set with two splits, of which the first gives a third.

  The part of the training split that is kept out of training is chosen by a
  fixed permutation: it depends on no seed, and a larger part holds a smaller.

  Attributes:
    holdout: fraction of the training split served as `'validation'` instead.
  """

  holdout: float = 0.0

  def __post_init__(self):
    if not 0 <= self.holdout < 1:
      raise ValueError(
          f'config.dataset.holdout is {self.holdout}; it is the fraction of the'
          ' training split to keep out of training: at least 0 and below 1'
      )

  @property
  def noise_std(self) -> float:
    """See `Dataset`; of no meaning where labels are classes."""
    return 1.0

  @abc.abstractmethod
  def load(self, split: str) -> Source:
    """Examples `{'x': ..., 'y': ...}` of the whole `'train'` or `'test'`."""

  def preprocess(self, element: Element) -> Element:
    """See `Dataset`; changes nothing here."""
    return element

  def augment(self, element: Element, rng: np.random.Generator) -> Element:
    """See `Dataset`; the same as in evaluation here."""
    del rng
    return self.preprocess(element)

  def source(self, split: str) -> Source:
    """See `Dataset`."""
    if split not in SPLITS:
      raise ValueError(f'there is no split {split!r}; the splits are {SPLITS}')
    if split == 'test':
      examples = self.load('test')
      return Numbered(examples, range(len(examples)))
    examples = self.load('train')
    held = round(self.holdout * len(examples))
    # The stream of RandomState is frozen for all versions of numpy (NEP 19).
    order = np.random.RandomState(0).permutation(len(examples))
    rows = order[:held] if split == 'validation' else np.sort(order[held:])
    if not len(rows):
      raise ValueError(
          f'the split {split!r} is empty: config.dataset.holdout is'
          f' {self.holdout}, which keeps {held} of {len(examples)} examples out'
          ' of training'
      )
    return Numbered(examples, rows)

  def __getstate__(self) -> dict[str, Any]:
    # Fields only: what was read and cached does not travel to workers.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True)
class Numbered:
  """Some rows of a source, numbered from 0.

  Attributes:
    examples: the source.
    rows: which of its examples, in which order.
  """

  examples: Source
  rows: Sequence[int] | np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Element:
    return {**self.examples[int(self.rows[index])], 'id': np.int32(index)}


@dataclasses.dataclass(frozen=True)
class Preprocessed:
  """A source whose examples are as evaluation sees them.

  Attributes:
    examples: the source.
    dataset: whose `preprocess` is applied.
  """

  examples: Source
  dataset: Dataset

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> Element:
    return self.dataset.preprocess(self.examples[index])


@dataclasses.dataclass(frozen=True, eq=False)
class InMemory:
  """Examples in two arrays.

  Attributes:
    x: `[B, ...]` inputs; bytes are brought to [0, 1] when they are read.
    y: `[B]` labels or `[B, C]` targets.
  """

  x: np.ndarray
  y: np.ndarray

  def __len__(self) -> int:
    return len(self.x)

  def __getitem__(self, index: int) -> Element:
    x = self.x[index]
    if x.dtype == np.uint8:
      x = np.divide(x, 255, dtype=np.float32)
    return {'x': x, 'y': self.y[index]}
