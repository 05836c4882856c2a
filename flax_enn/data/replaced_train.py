"""A data set that is trained on the examples of another."""

import dataclasses

import jax
import numpy as np

from flax_enn.data.base import Dataset, Source, Wrapped
from flax_enn.data.in_memory import GivenArrays, Pair, data_set_of


@dataclasses.dataclass(frozen=True)
class ReplacedTrain(Wrapped):
  """The test split and the form of `dataset`, the training split of `train`.

  enn's `OverrideTrainDataset`. Examples of one's own are arrays, in Python:

    ReplacedTrain(Mnist(), (x, y))

  In a config they are those of a file:

    {'name': 'replaced_train', 'dataset': {'name': 'mnist'},
     'train': {'name': 'arrays', 'path': 'mine.npz', 'num_classes': 10}}

  Attributes:
    dataset: what is evaluated; its preprocessing is that of both.
    train: what is trained on: its x and y are stored in the same form. A data
      set, or arrays (x, y) of B examples, which become one; the classes of
      their labels are those of `dataset`, and some may have no example.
  """

  train: Dataset | Pair

  def __post_init__(self):
    # Arrays as a field neither compare nor hash.
    object.__setattr__(self, 'train', data_set_of(self.train, 'train'))

  def load(self, split: str) -> Source:
    """Examples of a split.

    Raises:
      ValueError: they cannot be read, or x or y of `train` is not what it is in
        `dataset`.
    """
    if split != 'train':
      return self.dataset.load(split)
    train = self.train
    assert isinstance(train, Dataset)  # since `__post_init__`
    self._check_y(train)
    source = train.load('train')
    self._check_x(source)
    return source

  def _check_y(self, train: Dataset) -> None:
    """Raises a ValueError where y is not that of `dataset`."""
    likelihood = self.dataset.likelihood
    target, classes = likelihood.target, likelihood.num_classes
    if isinstance(train, GivenArrays):  # the number of their classes is unknown
      y = train.source.y
      found = f'y {y.dtype}{list(y.shape[1:])}'
      same = (y.shape[1:], y.dtype) == (target.shape, target.dtype)
    else:
      y, found = None, train.likelihood
      same = (found.target, found.num_classes) == (target, classes)
    if not same:
      raise ValueError(
          f'train has {found} and dataset {likelihood}; y must mean the same in'
          ' both'
      )
    if y is None:
      return  # A batch is checked as it is read.
    bad, words = likelihood.check_targets(y)
    if bad.any():
      rows = np.flatnonzero(bad)
      raise ValueError(
          f'train has y {y[rows[0]].tolist()}, but {words} in'
          f' dataset; correct y of the examples {rows[:5].tolist()}'
      )

  def _check_x(self, source: Source) -> None:
    """Raises a ValueError where the first x is preprocessed to another form."""
    try:
      x = self.preprocess(source[0]['x'])
    except Exception:  # decoders each have their own
      return  # An example that cannot be read is the loader's to name.
    found, expected = (
        jax.tree.map(lambda a: f'{a.dtype}{list(a.shape)}', one)
        for one in (x, self.input_spec)
    )
    if found != expected:
      raise ValueError(
          f'train has x of the form {found} once dataset has preprocessed it,'
          f' and dataset {expected}; x must be stored in the same form in both'
      )
