"""Metrics of joint predictions: many labels under one shared index.

Osband et al., "Evaluating High-Order Predictive Distributions in Deep
Learning" (arXiv:2202.13509): a marginal log-loss cannot tell what a network
does not know from what is noise; a joint log-loss can. All are in nats per
group of tau labels, never divided by tau: a network without an index scores
tau times its marginal log-loss.

Every function returns `values` and their `mask`; a pair or group with any
padded example has mask 0.
"""

import math
from typing import Any

import jax
from jax.nn import logsumexp
import jax.numpy as jnp
import numpy as np

from flax_enn.metrics.predictive import PredictiveStats


def joint_nll(
    predictive: PredictiveStats, mask: jax.Array, **_: Any
) -> dict[str, jax.Array]:
  """`[B // 2]` dyadic log-loss of each pair, its expectation over the draws.

  tau labels are drawn with replacement from a pair (a, b) of examples. How
  often a is drawn is binomial, so the expectation of the log-loss is

    sum_k Binom(k; tau, 1/2) · -log mean_z p_a(z)^k p_b(z)^(tau - k).

  >>> joint_nll(predictive, batch.mask)['values'].round(2)  # of tau = 2 labels
  Array([0.86, 2.18], dtype=float32)
  """
  tau = predictive.tau
  binomial = [math.comb(tau, k) / 2**tau for k in range(tau + 1)]
  weights = np.asarray(binomial, np.float32)
  losses = -predictive.log_mean(predictive.dyadic)
  values = jnp.where(weights > 0, weights * losses, 0.0).sum(-1)
  return {'values': values, 'mask': _all(mask, 2)}


def joint_nll_sampled(
    predictive: PredictiveStats, y: jax.Array, mask: jax.Array, **_: Any
) -> dict[str, jax.Array]:
  """`[B // 2]` dyadic log-loss at one draw per pair, enn's own draw.

  The draw is keyed on the labels of the whole batch, as in
  `enn/metrics/joint.py`: the average over a data set depends on its batches.

  >>> joint_nll_sampled(predictive, batch.y, batch.mask)['values'].round(2)
  Array([0.69, 2.53], dtype=float32)
  """
  labels = jnp.where(mask > 0, y, 0)
  times = (_draws(labels, predictive.tau, kappa=2) == 0).sum(-1)
  picked = jnp.take_along_axis(predictive.dyadic, times[:, None], axis=-1)[:, 0]
  return {'values': -predictive.log_mean(picked), 'mask': _all(mask, 2)}


def joint_nll_distinct(
    predictive: PredictiveStats, mask: jax.Array, **_: Any
) -> dict[str, jax.Array]:
  """`[B // tau]` log-loss of tau labels at tau distinct, consecutive inputs.

  >>> joint_nll_distinct(predictive, batch.mask)['values'].round(2)
  Array([0.92, 2.53], dtype=float32)
  """
  values = -predictive.log_mean(predictive.distinct)
  return {'values': values, 'mask': _all(mask, predictive.tau)}


def polyadic_nll(
    log_likelihood: jax.Array, y: jax.Array, *, tau: int = 10, kappa: int = 2
) -> jax.Array:
  """The sampled log-loss of tau labels drawn from kappa anchors, as in enn.

  >>> polyadic_nll(jnp.log(jnp.full((3, 4), 0.5)), batch.y, tau=2)
  Array(1.3862944, dtype=float32)

  Args:
    log_likelihood: `[N, B]` values of `log p(y_b | x_b, z)`.
    y: `[B]` integer labels, which seed the draws.
    tau: number of labels in a joint prediction.
    kappa: number of consecutive examples they are drawn from.

  Returns:
    `[]` average over the B // kappa groups.
  """
  n, batch_size = log_likelihood.shape
  whole = log_likelihood[:, : batch_size // kappa * kappa]
  anchors = whole.reshape(n, -1, kappa)
  draws = jnp.broadcast_to(
      _draws(y, tau, kappa), (n, batch_size // kappa, tau)
  )
  joint = jnp.take_along_axis(anchors, draws, axis=-1).sum(-1)
  return -(logsumexp(joint, axis=0) - math.log(n)).mean()


def _draws(y: jax.Array, tau: int, kappa: int) -> jax.Array:
  """`[B // kappa, tau]` anchor points that enn draws for labels `[B]`."""
  y = y.astype(jnp.int32)
  seed = jnp.sum(y * jnp.arange(len(y), dtype=jnp.int32) * (y.max() * 10))
  keys = jax.random.split(jax.random.key(seed), len(y) // kappa)
  return jax.vmap(lambda key: jax.random.randint(key, (tau,), 0, kappa))(keys)


def _all(mask: jax.Array, size: int) -> jax.Array:
  """`[B // size]` whether all of `size` consecutive examples are unmasked."""
  return mask[: len(mask) // size * size].reshape(-1, size).min(-1)
