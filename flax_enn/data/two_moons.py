"""Two interleaved half circles in the plane."""

import dataclasses

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class TwoMoons(Dataset):
  """Class 0 on the upper half of a circle around (0, 0), class 1 on a lower.

  The lower half circle is around (1, 1/2); both have radius 1.

  Attributes:
    n_train: examples in the training split.
    n_test: examples in the test split.
    noise: standard deviation of the normal noise on both coordinates.
    seed: of the data.
  """

  n_train: int = 1000
  n_test: int = 1000
  noise: float = 0.1
  seed: int = 0

  def __post_init__(self):
    check_numbers(self, (), ('n_train', 'n_test', 'noise'))

  @property
  def likelihood(self) -> Categorical:
    return Categorical(2)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2,), np.float32)

  def load(self, split: str) -> ArraySource:
    n = self.n_train if split == 'train' else self.n_test
    rng = np.random.RandomState([self.seed, split == 'train'])
    y = rng.randint(2, size=n).astype(np.int32)
    angle = rng.uniform(0, np.pi, size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(y[:, None], [1, 0.5] - upper, upper)
    x += self.noise * rng.normal(size=x.shape)
    return ArraySource(x.astype(np.float32), y)
