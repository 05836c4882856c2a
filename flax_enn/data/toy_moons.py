"""The classification of enn's examples: a few points of two moons."""

import dataclasses

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class ToyMoons(Dataset):
  """Points at equal angles of two half circles, with noise; some labels wrong.

  scikit-learn's `make_moons` and enn's `classification_data`, to their numbers.
  (`TwoMoons` draws the angles, as many as are asked for.) The test split is
  drawn anew, with all labels right.

  Attributes:
    per_class: examples of each class in a split.
    noise: standard deviation of the normal noise on both coordinates.
    prob_swap: probability of the other label, in training.
    seed: of the data.
  """

  per_class: int = 10
  noise: float = 0.1
  prob_swap: float = 0.0
  seed: int = 0

  def __post_init__(self):
    check_numbers(self, ('per_class',), ('noise', 'prob_swap', 'seed'))
    if self.prob_swap > 1:
      raise ValueError(
          f'prob_swap is {self.prob_swap}; it is a probability, at most 1'
      )

  @property
  def likelihood(self) -> Categorical:
    return Categorical(2)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((2,), np.float32)

  def load(self, split: str) -> ArraySource:
    train = split == 'train'
    seed = self.seed if train else [self.seed, 1]
    rng = np.random.RandomState(seed)
    angle = np.linspace(0, np.pi, self.per_class)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = np.concatenate([upper, [1, 0.5] - upper])
    y = np.repeat([0, 1], self.per_class)
    order = np.arange(len(y))
    rng.shuffle(order)
    x = x[order] + rng.normal(scale=self.noise, size=x.shape)
    y = y[order]
    if train:
      swaps = np.random.RandomState(seed).binomial(1, self.prob_swap, len(y))
      y = np.where(swaps, 1 - y, y)
    return ArraySource(x.astype(np.float32), y.astype(np.int32))
