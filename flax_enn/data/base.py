"""What a data set is: examples of a split, and what a network sees of them."""

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from flax_enn.data.augmentation import passes_on
from flax_enn.data.preprocess import IDENTITY, Preprocess
from flax_enn.likelihoods import Likelihood

# `x`, `y`, and where the data have one `weight`, of one example.
Element = Mapping[str, Any]


class Source(Protocol):
  """Random access to the examples of a split.

  An example that cannot be read is a ValueError; an OSError with a number is a
  fault that may pass.
  """

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> Element: ...


@dataclasses.dataclass(frozen=True)
class DataSpec:
  """All that a model needs to know of its data; a run keeps it in its folder.

  Attributes:
    input_spec: shape and dtype of one x as the network takes it, a pytree of
      `jax.ShapeDtypeStruct`s without the axis B.
    likelihood: what y is.
    preprocess: from x as it is stored to x as the network takes it.
    class_names: of each class, or nothing.
  """

  input_spec: Any
  likelihood: Likelihood
  preprocess: Preprocess = IDENTITY
  class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dataset(abc.ABC):
  """A data set: a frozen dataclass whose fields are those of `config.dataset`.

  Everything but `load` answers without opening a file, unless `learns` is True.

  Attributes:
    learns: whether files must be read to know the spec.
  """

  learns: ClassVar[bool] = False

  @property
  @abc.abstractmethod
  def input_spec(self) -> Any:
    """Shape and dtype of one x as the network takes it, see `DataSpec`."""

  @property
  @abc.abstractmethod
  def likelihood(self) -> Likelihood:
    """What y is; `config.likelihood` may say otherwise."""

  @abc.abstractmethod
  def load(self, split: str) -> Source:
    """Examples of `'train'` or `'test'`, with x as it is stored.

    Raises:
      ValueError: they cannot be read; which field of the data set to change.
    """

  @property
  def class_names(self) -> tuple[str, ...]:
    """Of each class, or nothing."""
    return ()

  @property
  def preprocess(self) -> Preprocess:
    """From x as it is stored to x as the network takes it."""
    return IDENTITY

  def augment(self, x: Any, rng: Any) -> Any:
    """The same for training, at random.

    Args:
      x: of one example, as it is stored.
      rng: a generator of numpy, to draw from it alone.

    Examples in arrays are augmented faster many at a time, see
    `augmentation.batched`.
    """
    del rng
    return self.preprocess(x)

  @property
  def augments(self) -> bool:
    """Whether `augment` may be anything but `preprocess`."""
    return type(self).augment is not Dataset.augment

  @property
  def augments_batches(self) -> bool:
    """Whether `augment` is `batched`: it takes many examples too."""
    return getattr(type(self).augment, 'batched', False)

  @property
  def spec(self) -> DataSpec:
    """What a model needs to know of the data."""
    return DataSpec(
        self.input_spec, self.likelihood, self.preprocess, self.class_names
    )

  def __getstate__(self) -> dict[str, Any]:
    # Fields only: what was read and cached does not travel to workers.
    return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def check_numbers(
    dataset: Dataset, above_0: tuple[str, ...], from_0: tuple[str, ...]
) -> None:
  """Raises a ValueError where a field of these names is too small."""
  for names, least in ((above_0, 'above'), (from_0, 'at least')):
    for name in names:
      value = getattr(dataset, name)
      if value < 0 or (value == 0 and least == 'above'):
        raise ValueError(f'{name} is {value}; it must be {least} 0')


@dataclasses.dataclass(frozen=True, eq=False)
class ArraySource:
  """Examples in arrays.

  Attributes:
    x: `[B, ...]` inputs, an array or a pytree of arrays.
    y: `[B]` labels or `[B, C]` targets.
    weight: `[B]` weights of the examples, or None.
    unreadable: of the examples that could not be read, why.
  """

  x: Any
  y: np.ndarray
  weight: np.ndarray | None = None
  unreadable: Mapping[int, str] = dataclasses.field(default_factory=dict)

  def __len__(self) -> int:
    return len(self.y)

  def __getitem__(self, index: int) -> Element:
    if index in self.unreadable:
      raise ValueError(self.unreadable[index])
    element = {
        'x': jax.tree.map(lambda leaf: leaf[index], self.x),
        'y': self.y[index],
    }
    if self.weight is not None:
      element['weight'] = self.weight[index]
    return element


@dataclasses.dataclass(frozen=True)
class Wrapped(Dataset):
  """Another data set, of which a subclass changes what it loads.

  Attributes:
    dataset: what is changed; all else is as it has it.
  """

  dataset: Dataset

  learns: ClassVar[bool] = True  # for all that is known, its files are read

  @property
  def input_spec(self) -> Any:
    return self.dataset.input_spec

  @property
  def likelihood(self) -> Likelihood:
    return self.dataset.likelihood

  def load(self, split: str) -> Source:
    return self.dataset.load(split)

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.dataset.class_names

  @property
  def preprocess(self) -> Preprocess:
    return self.dataset.preprocess

  @passes_on
  def augment(self, x: Any, rng: Any) -> Any:
    return self.dataset.augment(x, rng)

  @property
  def augments(self) -> bool:
    return self._augmented.augments

  @property
  def augments_batches(self) -> bool:
    return self._augmented.augments_batches

  @property
  def _augmented(self) -> Any:
    """What knows how it augments: what it wraps, or a subclass."""
    passes = getattr(type(self).augment, 'passes_on', False)
    return self.dataset if passes else super()


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
  """Some of the examples of a source.

  Attributes:
    source: of all.
    rows: `[B]` which of them.
  """

  source: Source
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Element:
    return self.source[int(self.rows[index])]


def chosen(source: Source, rows: np.ndarray) -> Source:
  """Some of the examples of a source, in arrays where all are."""
  if type(source) is not ArraySource:
    return Rows(source, rows)
  bad = source.unreadable
  return ArraySource(
      x=jax.tree.map(lambda leaf: leaf[rows], source.x),
      y=source.y[rows],
      weight=None if source.weight is None else source.weight[rows],
      unreadable={i: bad[r] for i, r in enumerate(rows.tolist()) if r in bad},
  )
