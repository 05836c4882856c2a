"""The regression of enn's examples: twenty points of a wave with a gap."""

import dataclasses

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.likelihoods import Gaussian


@dataclasses.dataclass(frozen=True)
class ToyRegression(Dataset):
  """`y = x + sin(3x) + sin(12x)` plus noise of deviation 0.1, twice ten points.

  Ten at equal distances on [0, 1/2], ten on [1, 3/2]; enn's
  `make_regression_df`, to its numbers. The test split is the same inputs with
  other noise.

  Attributes:
    extra_inputs: ones beside x, which give random priors a bias.
    noise_std: of the likelihood, in the units of y.
    seed: of the noise.
  """

  extra_inputs: int = 1
  noise_std: float = 0.1
  seed: int = 0

  def __post_init__(self):
    check_numbers(self, ('noise_std',), ('extra_inputs', 'seed'))

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1 + self.extra_inputs,), np.float32)

  @property
  def likelihood(self) -> Gaussian:
    return Gaussian(1, scale=self.noise_std)

  def load(self, split: str) -> ArraySource:
    x = np.concatenate([np.linspace(0, 0.5, 10), np.linspace(1, 1.5, 10)])
    seed = self.seed if split == 'train' else [self.seed, 1]
    noise = 0.1 * np.random.RandomState(seed).randn(len(x))
    y = x + np.sin(3 * x) + np.sin(12 * x) + noise
    ones = np.ones((len(x), self.extra_inputs))
    return ArraySource(
        np.column_stack([x, ones]).astype(np.float32),
        y[:, None].astype(np.float32),
    )
