"""Target noise: random shifts of the targets, one set for every index."""

import dataclasses
import math

import jax.numpy as jnp

from flax_enn import indexers
from flax_enn.core import Batch, Index
from flax_enn.losses.noise import Noise, normal


@dataclasses.dataclass(frozen=True)
class TargetNoise(Noise):
  """Shifts `batch.y` by N(0, std^2), a fixed draw for each example and index.

  With std that of the observations' noise and a random prior function beside
  each, linear functions trained so are draws from the Bayesian posterior
  (Osband et al., "Randomized Prior Functions for Deep Reinforcement Learning",
  arXiv:1806.03335). For a Gaussian index the shift is std times a random
  projection of it.

  Attributes:
    std: standard deviation of the noise, in the units of y.
  """

  std: float

  def __post_init__(self):
    super().__post_init__()
    if self.std < 0:
      raise ValueError(
          f'std is {self.std}; set config.objectives.*.noise.*.std to at least'
          ' 0'
      )

  def __call__(self, batch: Batch, index: Index) -> Batch:
    y = jnp.asarray(batch.y)
    if not jnp.issubdtype(y.dtype, jnp.floating) or y.ndim != 2:
      raise ValueError(
          f'TargetNoise found targets {y.dtype}{list(y.shape)}; it shifts float'
          ' targets [B, C]. Take it out of config.objectives.*.noise, or take a'
          ' regression config.dataset'
      )
    outputs = y.shape[1:]
    if not self.linear:
      keys = self.draw_keys(batch, index)
      return batch.replace(y=y + self.std * normal(keys, outputs))
    u = self.standard(index)
    b = normal(self.example_keys(batch), outputs + u.shape)
    if isinstance(self.indexer, indexers.GaussianIndexer):
      # As in enn: on the sphere the standard deviation is std for every b.
      norm = jnp.linalg.norm(b, axis=-1, keepdims=True)
      b *= math.sqrt(u.shape[0]) / norm
    return batch.replace(y=y + self.std * (b @ u))
