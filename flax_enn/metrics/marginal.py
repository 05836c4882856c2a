"""Metrics of one example at a time, un-reduced: `(predictive, y, …) -> [B]`."""

from typing import Any

from clu import metrics
from flax import struct
import jax
import jax.numpy as jnp

from flax_enn.metrics.predictive import PredictiveStats


def nll(predictive: PredictiveStats, **_: Any) -> jax.Array:
  """`[B]` marginal log-loss `-log mean_z p(y | x, z)`, in nats.

  >>> nll(predictive).round(2)  # mean probability of y: 0.6, 0.7, 0.3, 0.4
  Array([0.51, 0.36, 1.2 , 0.92], dtype=float32)
  """
  return -predictive.log_mean(predictive.marginal)


def accuracy(
    predictive: PredictiveStats, y: jax.Array, **_: Any
) -> jax.Array:
  """`[B]` 1 where the label has the highest mean probability, else 0.

  >>> accuracy(predictive, batch.y)
  Array([1., 1., 0., 0.], dtype=float32)
  """
  return (predictive.preds.argmax(-1) == y).astype(jnp.float32)


def brier(predictive: PredictiveStats, y: jax.Array, **_: Any) -> jax.Array:
  """`[B]` squared error of the mean probabilities, summed over the classes.

  >>> brier(predictive, batch.y).round(2)
  Array([0.32, 0.18, 0.98, 0.72], dtype=float32)
  """
  probs = predictive.preds
  return jnp.square(probs - jax.nn.one_hot(y, probs.shape[-1])).sum(-1)


def squared_error(
    predictive: PredictiveStats, y: jax.Array, **_: Any
) -> jax.Array:
  """`[B]` squared error of the mean over indices, averaged over the outputs.

  >>> squared_error(predictive, jnp.zeros((4, 2))).round(2)  # of probabilities
  Array([0.26, 0.29, 0.29, 0.26], dtype=float32)
  """
  return jnp.square(predictive.preds - y).mean(-1)


@struct.dataclass
class RootAverage(metrics.Average):
  """The square root of an average: RMSE from squared errors."""

  def compute(self) -> jax.Array:
    return jnp.sqrt(super().compute())
