"""Batches of examples in arrays, without a loop over the examples."""

from collections.abc import Callable, Iterable, Iterator
import dataclasses
import math
from typing import Any

import jax
import numpy as np

from flax_enn.core import Batch
from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.batching import Batcher
from flax_enn.data.preprocess import of_many
from flax_enn.data.reader import Reader
from flax_enn.data.row_generators import RowGenerators
from flax_enn.likelihoods import Categorical, Gaussian, Likelihood

# Arrays x `[B, ...]`, or a tree of them, and y: labels `[B]` or targets
# `[B, C]`.
Pair = tuple[Any, Any]

# Of a batch as the network takes it: more is read faster by several threads.
_MOST_BYTES = 2**23
# Of a split, for each device to hold it.
MOST_RESIDENT = 2**25


@dataclasses.dataclass(frozen=True)
class InMemory:
  """The examples of a split that lie in arrays.

  Attributes:
    examples: the source.
    rows: which of its examples are the split.
    fn: from x as it is stored to x as the network takes it, of many examples;
      also of their generators where it augments.
    batcher: checks a batch.
  """

  examples: ArraySource
  rows: np.ndarray
  fn: Callable[..., Any]
  batcher: Batcher

  def take(self, ids: np.ndarray, *rng: RowGenerators) -> Batch:
    """The batch of these examples; those with an id below 0 are padding.

    Args:
      ids: `[B]` of the examples.
      *rng: one generator for each, where they are augmented.

    Raises:
      ValueError: examples that do not fit the spec.
    """
    examples, padding = self.examples, ids < 0
    rows = self.rows[np.maximum(ids, 0)]
    x = self.fn(jax.tree.map(lambda leaf: leaf[rows], examples.x), *rng)
    y = examples.y[rows]
    weight = np.ones(len(ids), np.float32)
    if examples.weight is not None:
      weight = examples.weight[rows].astype(np.float32) * ~padding
    if padding.any():
      for leaf in jax.tree.leaves((x, y)):
        leaf[padding] = 0
    mask = (~padding).astype(np.float32)
    return self.batcher.checked(Batch(x, y, weight, ids.astype(np.int32), mask))


class Taken(Iterator[Batch]):
  """Batches of examples in memory.

  Attributes:
    ids: of the examples of the batches to come.
  """

  def __init__(
      self,
      held: InMemory,
      ids: Iterable[np.ndarray],
      generators: Iterable[RowGenerators] | None = None,
  ):
    """Takes these examples of those held, a batch at a time.

    Args:
      held: the examples.
      ids: `[B]` of each batch.
      generators: of each batch, where its examples are augmented.
    """
    self._held, self.ids = held, iter(ids)
    self._generators = None if generators is None else iter(generators)

  def __next__(self) -> Batch:
    rngs = () if self._generators is None else (next(self._generators),)
    return self._held.take(next(self.ids), *rngs)

  def examples(self) -> Batch | None:
    """All of them, whose rows are their ids, where devices may hold them.

    None where they are too many or augmented, or some do not fit the spec:
    their batch says which.
    """
    n = len(self._held.rows)
    size = n * _size(self._held.batcher.spec.input_spec)
    if size > MOST_RESIDENT or self._generators is not None:
      return None
    try:
      return self._held.take(np.arange(n))
    except ValueError:
      return None


def in_memory(
    reader: Reader, batcher: Batcher, rows: int, augment: Any = None
) -> InMemory | None:
  """The examples of a split, where batches of them can be taken so.

  Args:
    reader: of them, one by one.
    batcher: of the split.
    rows: examples in a batch.
    augment: what the reader does to x, where it is `batched`.
  """
  examples = reader.source.examples
  if not isinstance(examples, ArraySource) or examples.unreadable:
    return None
  arrays = jax.tree.leaves((examples.x, examples.y, examples.weight))
  n, many = len(examples), augment or of_many(reader.fn, examples.x)
  plain = type(examples) is ArraySource  # a subclass may read in its own way
  plain &= all(isinstance(a, np.ndarray) for a in arrays)
  size = rows * _size(batcher.spec.input_spec)
  whole = plain and all(a.shape[:1] == (n,) for a in arrays)
  if many is None or not whole or size > _MOST_BYTES:
    return None
  return InMemory(examples, reader.source.rows, many, batcher)


def _size(spec: Any) -> int:
  """Bytes of one example."""
  return sum(
      math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize
      for leaf in jax.tree.leaves(spec)
  )


def data_set_of(found: Dataset | Pair, name: str) -> Dataset:
  """A data set as it is, or arrays as one whose splits are both all of them.

  Args:
    found: a data set, or x and y.
    name: of what was given, for errors.

  Raises:
    ValueError: it is neither, or x and y are not those of as many examples.
  """
  if isinstance(found, Dataset):
    return found
  if not isinstance(found, (tuple, list)) or len(found) != 2:
    raise ValueError(
        f'{name} is a {type(found).__name__}; expected a data set, or a pair of'
        ' arrays (x, y)'
    )
  x, y = jax.tree.map(np.asarray, found[0]), np.asarray(found[1])
  sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(x)}
  if sizes != {y.shape[:1]} or not y.size:
    raise ValueError(
        f'{name} has x of {sorted(sizes)} examples and y of shape'
        f' {list(y.shape)}; expected as many in both, and at least one'
    )
  integers = np.issubdtype(y.dtype, np.integer)
  if y.ndim != (1 if integers else 2):
    raise ValueError(
        f'{name} has y {y.dtype}{list(y.shape)}; expected integer labels [B],'
        ' or float targets [B, C]'
    )
  y = y.astype(np.int32 if integers else np.float32)
  return GivenArrays(ArraySource(jax.tree.map(_narrowed, x), y))


def _narrowed(leaf: np.ndarray) -> np.ndarray:
  """Floats as float32; tokens and bytes as they are."""
  if np.issubdtype(leaf.dtype, np.floating):
    return leaf.astype(np.float32)
  return leaf.astype(np.int32) if leaf.dtype == np.int64 else leaf


@dataclasses.dataclass(frozen=True, repr=False)
class GivenArrays(Dataset):
  """Arrays as both splits of a data set."""

  source: ArraySource

  @property
  def input_spec(self) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype),
        self.source.x,
    )

  @property
  def likelihood(self) -> Likelihood:
    y = self.source.y
    return Gaussian(y.shape[1]) if y.ndim > 1 else Categorical(int(y.max()) + 1)

  def load(self, split: str) -> ArraySource:
    del split
    return self.source

  def __repr__(self) -> str:
    return f'arrays of {len(self.source)} examples'
