"""Examples by their number, as the network takes them."""

from collections.abc import Callable, Iterable, Iterator, MutableMapping
import dataclasses
from typing import Any

from absl import logging
import jax
import numpy as np

from flax_enn.core import Batch
from flax_enn.data.base import Element, Source
from flax_enn.data.batching import Problems


@dataclasses.dataclass(frozen=True)
class WithIds:
  """Some rows of a source, numbered from 0.

  Attributes:
    examples: the source.
    rows: which of its examples, in which order.
  """

  examples: Source
  rows: np.ndarray

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int) -> Element:
    return {**self.examples[int(self.rows[index])], 'id': np.int32(index)}


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads the examples of a split, each by its id.

  The next example that can be read stands in for one that cannot, with mask 0
  and the id of that: order and ids stay, batch statistics are those of real
  examples, and all of it is the same on any number of hosts.

  Attributes:
    source: the examples.
    fn: from x as it is stored to x as the network takes it: of x, and of a
      random generator where there is one.
    where: the split and the data set, as errors name them.
    skip_bad: how many examples may be passed over, at most.
  """

  source: WithIds
  fn: Callable[..., Any]
  where: str
  skip_bad: int = 0

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Element:
    return self(index)

  def __call__(self, index: int, *rng: np.random.Generator) -> Element:
    """An element; what was wrong is its `problem`, where it is a stand-in.

    Raises:
      ValueError: more examples in a row cannot be read than may be passed over.
    """
    problems = []
    for i in range(self.skip_bad + 1):
      try:
        element = self._read((int(index) + i) % len(self), *rng)
      except ValueError as e:
        problems.append(e)
        continue
      if not problems:
        return element
      own = {'id': np.int32(index), 'mask': 0.0, 'problem': str(problems[0])}
      return {**element, **own}
    first = problems[0]
    row = f', as are the {self.skip_bad} after it' if self.skip_bad else ''
    raise ValueError(
        f'{first}{row}. Repair this example, change the fields of the data set,'
        f' or set skip_bad ({self.skip_bad}) to as many as may be passed over'
    ) from first

  def some(self, most: int) -> tuple[Any, np.ndarray]:
    """Inputs and targets `[B, ...]` of some examples, evenly spread.

    Args:
      most: B, where there are as many and all can be read.
    """
    rows = np.unique(np.linspace(0, len(self) - 1, most).astype(int))
    read = (self[int(i)] for i in rows)
    elements = [e for e in read if 'problem' not in e]
    x, y = ([e[name] for e in elements] for name in 'xy')
    return jax.tree.map(lambda *leaves: np.stack(leaves), *x), np.stack(y)

  def _read(self, index: int, *rng: np.random.Generator) -> Element:
    try:
      element = self.source[index]
      return {**element, 'x': self.fn(element['x'], *rng)}
    except Exception as e:  # decoders each have their own
      # An image format has no number of an error; a disk or a network has.
      passing = isinstance(e, OSError) and e.errno is not None
      if passing or isinstance(e, (ImportError, MemoryError)):
        raise
      row = int(self.source.rows[index])
      record = f' (record {row})' if row != index else ''
      what = str(e) if isinstance(e, ValueError) else f'{type(e).__name__}: {e}'
      raise ValueError(
          f'the example with id {index}{record} of {self.where}: {what}'
      ) from e


def counted(
    batches: Iterable[tuple[Batch, Problems]],
    most: int,
    skipped: MutableMapping[int, str] | None = None,
) -> Iterator[Batch]:
  """The batches, while few enough of their examples cannot be read.

  Args:
    batches: each with what could not be read of it.
    most: how many different examples that may be.
    skipped: gets id -> what is wrong; those that are in it count.

  Raises:
    ValueError: there are more.
  """
  skipped = {} if skipped is None else skipped
  for batch, problems in batches:
    for key, problem in problems:
      count = len(skipped) + (key not in skipped)
      if count > most:
        raise ValueError(
            f'{problem}. With it {count} examples cannot be read, but skip_bad'
            f' is {most}; repair them, or set it to as many as may be passed'
            ' over'
        )
      if key not in skipped:
        skipped[key] = problem
        logging.warning('Passed over (%d of %d): %s', count, most, problem)
    yield batch
