"""Pairs of items, and which of the two was preferred."""

import dataclasses

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Categorical

# The mean of tanh(u)^2 for u ~ N(0, 1).
_VARIANCE = 0.3943


@dataclasses.dataclass(frozen=True)
class Preferences(Dataset):
  """Item 1 of two is preferred with probability `sigmoid((r_1 - r_2) / t)`.

  (Bradley and Terry.) An item is F normal numbers; its reward r is a random
  perceptron of them, with mean 0 and a deviation of about 1. The label is 0 for
  the first item and 1 for the second.

  Attributes:
    n_train: pairs in the training split.
    n_test: pairs in the test split.
    items: that the pairs of the training split are drawn from; None has new
      items in each pair, as in the test split.
    features: F.
    hidden: hidden units of the reward.
    temperature: t; the lower, the surer the answers.
    seed: of the reward and the data.
  """

  n_train: int = 1000
  n_test: int = 1000
  items: int | None = None
  features: int = 8
  hidden: int = 20
  temperature: float = 0.5
  seed: int = 0

  def __post_init__(self):
    check_numbers(
        self,
        ('features', 'hidden', 'temperature'),
        ('n_train', 'n_test', 'seed'),
    )
    if self.items is not None and self.items < 2:
      raise ValueError(f'items is {self.items}; it must be None or at least 2')

  @property
  def likelihood(self) -> Categorical:
    return Categorical(2)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2, self.features), np.float32)

  def rewards(self, x: np.ndarray) -> np.ndarray:
    """The reward `[...]` of items `[..., F]`."""
    rng = np.random.RandomState([self.seed, 2])
    first = rng.normal(size=(self.features, self.hidden))
    second = rng.normal(size=self.hidden)
    scale = np.sqrt(self.hidden * _VARIANCE)
    return np.tanh(x @ first / np.sqrt(self.features)) @ second / scale

  def load(self, split: str) -> ArraySource:
    n = self.n_train if split == 'train' else self.n_test
    rng = np.random.RandomState([self.seed, split == 'train'])
    if split == 'train' and self.items:
      items = rng.normal(size=(self.items, self.features))
      first = rng.randint(self.items, size=n)
      second = (first + rng.randint(1, self.items, size=n)) % self.items
      x = items[np.stack([first, second], 1)]
    else:
      x = rng.normal(size=(n, 2, self.features))
    first, second = self.rewards(x).T / self.temperature
    y = rng.logistic(size=n) < second - first
    return ArraySource(x.astype(np.float32), y.astype(np.int32))
