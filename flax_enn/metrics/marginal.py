"""Metrics of one example at a time, un-reduced: `(moments, y, mask) -> [B]`."""

from typing import Any

from clu import metrics
from flax import struct
import jax
import jax.numpy as jnp

from flax_enn.metrics.moments import (
    ClassificationMoments,
    IndexMoments,
    RegressionMoments,
)


def nll(moments: IndexMoments, **_: Any) -> jax.Array:
  """`[B]` marginal log-loss `-log mean_z p(y | x, z)`, in nats."""
  return -moments.mean(moments.marginal)


def accuracy(
    moments: ClassificationMoments, y: jax.Array, **_: Any
) -> jax.Array:
  """`[B]` 1 where the label has the highest mean probability, else 0."""
  return (moments.log_probs.argmax(-1) == y).astype(jnp.float32)


def brier(moments: ClassificationMoments, y: jax.Array, **_: Any) -> jax.Array:
  """`[B]` squared error of the mean probabilities, summed over the classes."""
  probs = jnp.exp(moments.mean_log_probs)
  return jnp.square(probs - jax.nn.one_hot(y, probs.shape[-1])).sum(-1)


def squared_error(
    moments: RegressionMoments, y: jax.Array, **_: Any
) -> jax.Array:
  """`[B]` squared error of the mean over indices, averaged over the outputs."""
  return jnp.square(moments.mean_preds - y).mean(-1)


@struct.dataclass
class RootAverage(metrics.Average):
  """The square root of an average: RMSE from squared errors."""

  def compute(self) -> jax.Array:
    return jnp.sqrt(super().compute())
