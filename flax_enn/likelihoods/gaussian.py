"""The likelihood of targets with Gaussian noise."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import promote_to_float32
from flax_enn.likelihoods.base import Likelihood, MeanStats

# Of a learned log-variance: beyond these the density of float32 is not finite.
_LOG_VARIANCE = (-20.0, 20.0)
_LEAST = 1e-18  # whose square float32 holds, and one over it


@dataclasses.dataclass(frozen=True)
class Gaussian(Likelihood):
  """y ~ N(mean, scale^2), independent over the entries of y.

  >>> Gaussian(1, scale=2.0).log_prob(jnp.zeros((1, 1)), jnp.zeros((1, 1)))
  Array([-1.6120857], dtype=float32)

  Attributes:
    dim: number of entries of y.
    scale: standard deviation of the noise, in the units of y; None where it is
      learned: the network then emits `dim` means and `dim` log-variances (which
      are cut at -20 and 20).
  """

  dim: int = 1
  scale: float | None = 1.0

  def __post_init__(self):
    if self.dim < 1:
      raise ValueError(f'dim is {self.dim}; it must be at least 1')
    if self.scale is not None and not _LEAST < self.scale < 1 / _LEAST:
      raise ValueError(
          f'scale is {self.scale}; it is a standard deviation, above {_LEAST}'
          f' and below {1 / _LEAST:g}, or None to learn it'
      )

  @property
  def outputs(self) -> int:
    return self.dim if self.scale is not None else 2 * self.dim

  @property
  def target(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((self.dim,), jnp.float32)

  def moments(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance `[..., dim]` of y under outputs `[..., C]`."""
    outputs = self.checked(outputs)
    if self.scale is not None:
      return outputs, jnp.full_like(outputs, self.scale**2)
    mean, log_variance = jnp.split(outputs, 2, axis=-1)
    return mean, jnp.exp(jnp.clip(log_variance, *_LOG_VARIANCE))

  def log_prob(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
    mean, variance = self.moments(outputs)
    squares = jnp.square(promote_to_float32(y) - mean) / variance
    return -0.5 * (squares + jnp.log(2 * math.pi * variance)).sum(-1)

  def init_stats(self, batch_size: int) -> MeanStats:
    return MeanStats.zeros(self, (batch_size, self.dim))

  def check_targets(self, y: np.ndarray) -> tuple[np.ndarray, str]:
    return np.zeros(len(y), bool), 'targets are any finite numbers'
