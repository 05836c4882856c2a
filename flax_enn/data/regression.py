"""A curve with a gap in its data."""

import dataclasses
from typing import ClassVar

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Gaussian


@dataclasses.dataclass(frozen=True)
class Regression(Dataset):
  """`y = x + sin(2 pi x) / 2` plus normal noise, for x in [-1, 1] but a gap.

  No input of either split lies in `gap`: what a network says there is a guess,
  and should look like one.

  Attributes:
    n_train: examples in the training split.
    n_test: examples in the test split, from the same inputs.
    noise_std: standard deviation of the noise.
    seed: of the data.
  """

  n_train: int = 200
  n_test: int = 200
  noise_std: float = 0.1
  seed: int = 0

  gap: ClassVar[tuple[float, float]] = (-0.3, 0.3)

  def __post_init__(self):
    check_numbers(self, ('noise_std',), ('n_train', 'n_test'))

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1,), np.float32)

  @property
  def likelihood(self) -> Gaussian:
    return Gaussian(1, scale=self.noise_std)

  def mean(self, x: np.ndarray) -> np.ndarray:
    """The curve without its noise at x of any shape."""
    return x + np.sin(2 * np.pi * x) / 2

  def load(self, split: str) -> ArraySource:
    n = self.n_train if split == 'train' else self.n_test
    rng = np.random.RandomState([self.seed, split == 'train'])
    low, high = self.gap
    # Uniform on the interval without its gap, which is then let in again.
    x = rng.uniform(-1, 1 - (high - low), size=(n, 1))
    x = np.where(x < low, x, x + high - low)
    y = self.mean(x) + self.noise_std * rng.normal(size=x.shape)
    return ArraySource(x.astype(np.float32), y.astype(np.float32))
