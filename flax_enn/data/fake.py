"""Random numbers in the shape of a data set, for tests and smoke runs."""

import dataclasses
from typing import Any

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Categorical, Gaussian, Likelihood

# What a network of texts takes.
_OF_TEXT = ('token_ids', 'segment_ids', 'input_mask')


@dataclasses.dataclass(frozen=True)
class Fake(Dataset):
  """Normal inputs with labels or targets that know nothing of them.

  Attributes:
    shape: of one x.
    classes: C, classes or outputs.
    task: `'classification'` or `'regression'`.
    n_train: examples in the training split.
    n_test: examples in the test split.
    noise_std: of a regression, standard deviation of the noise of targets.
    vocab_size: pieces of words that x, a text of `shape` pieces, is of; 0 for
      an x of numbers.
    feature: name of the numbers of `shape`, where x is what a base has
      computed: they and its logits; empty for x of the numbers alone.
    seed: of the data.
  """

  shape: tuple[int, ...] = (8, 8, 1)
  classes: int = 10
  task: str = 'classification'
  n_train: int = 64
  n_test: int = 32
  noise_std: float = 1.0
  vocab_size: int = 0
  feature: str = ''
  seed: int = 0

  def __post_init__(self):
    if self.task not in ('classification', 'regression'):
      raise ValueError(
          f"task is {self.task!r}; it is 'classification' or"
          " 'regression'"
      )
    check_numbers(self, ('noise_std',), ('n_train', 'n_test', 'vocab_size'))
    if any(size < 1 for size in self.shape):
      raise ValueError(
          f'shape is {self.shape}; each of its numbers must be above 0'
      )

  @property
  def input_spec(self) -> Any:
    dtype = np.int32 if self.vocab_size else np.float32
    one = jax.ShapeDtypeStruct(tuple(self.shape), dtype)
    if self.feature:
      logits = jax.ShapeDtypeStruct((self.classes,), np.float32)
      return {self.feature: one, 'logits': logits}
    return dict.fromkeys(_OF_TEXT, one) if self.vocab_size else one

  @property
  def likelihood(self) -> Likelihood:
    if self.task == 'classification':
      return Categorical(self.classes)
    return Gaussian(self.classes, scale=self.noise_std)

  def load(self, split: str) -> ArraySource:
    n = self.n_train if split == 'train' else self.n_test
    rng = np.random.RandomState([self.seed, split == 'train'])
    x = rng.normal(size=(n, *self.shape)).astype(np.float32)
    if self.task == 'classification':
      y = rng.randint(self.classes, size=n).astype(np.int32)
    else:
      y = rng.normal(size=(n, self.classes)).astype(np.float32)
    if self.vocab_size:
      ids = rng.randint(self.vocab_size, size=x.shape).astype(np.int32)
      x = dict(zip(_OF_TEXT, (ids, np.zeros_like(ids), np.ones_like(ids))))
    if self.feature:
      logits = rng.normal(size=(n, self.classes)).astype(np.float32)
      x = {self.feature: x, 'logits': logits}
    return ArraySource(x, y)
