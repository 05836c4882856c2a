"""Target noise: random shifts of the targets, one set for every index."""

import dataclasses
import math

import jax.numpy as jnp

from flax_enn.core import Batch, Index, Indexer
from flax_enn.field_checks import check_not_negative
from flax_enn.indexers import GaussianIndexer
from flax_enn.losses.data_noise import Noise, normal


@dataclasses.dataclass(frozen=True)
class TargetNoise(Noise):
  """Shifts `batch.y` by N(0, std^2), a fixed draw for each example and index.

  With std that of the observations' noise and a random prior function beside
  each, linear functions trained so are draws from the Bayesian posterior
  (Osband et al., "Randomized Prior Functions for Deep Reinforcement Learning",
  arXiv:1806.03335). For a Gaussian index the shift is std times a random
  projection of it.

  >>> targets = batch.replace(y=jnp.zeros((4, 1)))
  >>> TargetNoise(0.1)(targets, index, EnsembleIndexer(10)).y[:, 0].round(2)
  Array([-0.06, -0.1 , -0.05, -0.06], dtype=float32)

  Attributes:
    std: standard deviation of the noise, in the units of y.
  """

  std: float

  def __post_init__(self):
    check_not_negative(self, 'std')

  def __call__(self, batch: Batch, index: Index, indexer: Indexer) -> Batch:
    """Shifts `batch.y`.

    Raises:
      ValueError: the targets are not floats `[B, C]`, or the index is neither
        Gaussian, one-hot nor a key.
    """
    y = jnp.asarray(batch.y)
    if not jnp.issubdtype(y.dtype, jnp.floating) or y.ndim != 2:
      raise ValueError(
          f'TargetNoise found targets {y.dtype}{list(y.shape)}; it shifts float'
          ' targets [B, C]: leave it out where labels are classes'
      )
    outputs = y.shape[1:]
    u = self.standardized(index, indexer)
    if u is None:
      keys = self.pair_keys(batch, index, indexer)
      return batch.replace(y=y + self.std * normal(keys, outputs))
    b = normal(self.example_keys(batch), outputs + u.shape)
    if isinstance(indexer, GaussianIndexer):
      # As in enn: on the sphere the standard deviation is std for every b.
      norm = jnp.linalg.norm(b, axis=-1, keepdims=True)
      b *= math.sqrt(u.shape[0]) / norm
    return batch.replace(y=y + self.std * (b @ u))
