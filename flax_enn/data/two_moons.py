"""Two interleaved half circles in the plane."""

import dataclasses
from typing import ClassVar

import numpy as np

from flax_enn.data.base import HeldOut, InMemory


@dataclasses.dataclass(frozen=True)
class TwoMoons(HeldOut):
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

  task: ClassVar[str] = 'classification'
  classes: ClassVar[int] = 2
  shape: ClassVar[tuple[int, ...]] = (2,)

  def load(self, split: str) -> InMemory:
    """See `HeldOut`."""
    n = self.n_train if split == 'train' else self.n_test
    rng = np.random.RandomState([self.seed, split == 'train'])
    y = rng.randint(2, size=n).astype(np.int32)
    angle = rng.uniform(0, np.pi, size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.where(y[:, None], [1, 0.5] - upper, upper)
    x += self.noise * rng.normal(size=x.shape)
    return InMemory(x.astype(np.float32), y)
