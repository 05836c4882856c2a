"""Priorities: how much the label of each example is asked for.

Functions of log-probabilities `[N, B, C]` at N indices, or of means `[N, B]` of
a regression where classes do not matter; they return `[B]`, the more the
sooner. What else they need they take by name:

  labels       `[B]` labels that are known already
  key          to draw from, the same for every batch of a pool
  ids          `[B]` numbers of the examples, so that what is drawn for one does
               not depend on its batch
  log_weights  `[N]` of the indices; equal ones by default

Log-probabilities rather than probabilities, so that one that underflows is no
NaN (as in enn, whose entropy it spoils).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.nn import logsumexp
import jax.numpy as jnp

from flax_enn.likelihoods import Likelihood
from flax_enn.likelihoods.base import entropy as entropy_of

# `(log_probs, *, labels, key, log_weights) -> [B]`.
Priority = Callable[..., jax.Array]


def uniform(
    log_probs: jax.Array, *, key: jax.Array, ids: Any = None, **_
) -> jax.Array:
  """Random numbers from 0 to 1, drawn from `key` for each id or place."""
  if ids is None:
    return jax.random.uniform(key, log_probs.shape[1:2])
  return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids)


def variance(log_probs: jax.Array, *, log_weights: Any = None, **_):
  """The variance over indices of each probability (or mean), summed."""
  values = jnp.exp(log_probs) if log_probs.ndim == 3 else log_probs[..., None]
  return jnp.square(_std(values, log_weights)).sum(-1)


def nll(
    log_probs: jax.Array, *, labels: jax.Array, log_weights: Any = None, **_
) -> jax.Array:
  """-log mean_z p(y | z), of labels y `[B]` that are known already.

  NaN where a label is no class, as that of an example that has none yet.
  """
  return -_log_mean(_of_label(log_probs, labels), log_weights)


def joint_nll(
    log_probs: jax.Array,
    *,
    labels: jax.Array,
    tau: int = 10,
    log_weights: Any = None,
    **_,
) -> jax.Array:
  """-log mean_z p(y | z)^tau: of seeing the same label tau times.

  enn averages the logarithms, which is tau times the mean log-loss of single
  functions and no joint log-loss. NaN where a label is no class.
  """
  return -_log_mean(tau * _of_label(log_probs, labels), log_weights)


def entropy(log_probs: jax.Array, *, log_weights: Any = None, **_):
  """The entropy of the mean prediction, in nats."""
  return entropy_of(_mean_probs(log_probs, log_weights))


def margin(log_probs: jax.Array, *, log_weights: Any = None, **_):
  """The second largest mean probability less the largest."""
  top, _ = jax.lax.top_k(_mean_probs(log_probs, log_weights), 2)
  return top[..., 1] - top[..., 0]


def bald(log_probs: jax.Array, *, log_weights: Any = None, **_):
  """The mutual information of label and index, in nats.

  The entropy of the mean prediction less the mean entropy: Houlsby et al.,
  "Bayesian Active Learning by Disagreement" (arXiv:1112.5745).
  """
  w = _weights(log_probs, log_weights)
  each = jnp.einsum('n,nb->b', w, entropy_of(jnp.exp(log_probs)))
  return entropy_of(_mean_probs(log_probs, log_weights)) - each


def var_ratios(log_probs: jax.Array, *, log_weights: Any = None, **_):
  """One less the largest mean probability."""
  return 1 - _mean_probs(log_probs, log_weights).max(-1)


def ucb(
    log_probs: jax.Array,
    *,
    factor: float = 1.0,
    class_values: Sequence[float] | None = None,
    log_weights: Any = None,
    **_,
) -> jax.Array:
  """Mean and `factor` standard deviations of the value over the indices.

  The value of an example is that of its classes on average, where
  `class_values` `[C]` has one for each (1 of the first and 0 of all others, by
  default), or the mean of a regression.
  """
  values = _values(log_probs, class_values)
  return _mean(values, log_weights) + factor * _std(values, log_weights)


def scaled_mean(
    log_probs: jax.Array,
    *,
    class_values: Sequence[float] | None = None,
    log_weights: Any = None,
    **_,
) -> jax.Array:
  """The mean over the indices of the value, see `ucb`."""
  return _mean(_values(log_probs, class_values), log_weights)


def scaled_std(
    log_probs: jax.Array,
    *,
    class_values: Sequence[float] | None = None,
    log_weights: Any = None,
    **_,
) -> jax.Array:
  """The standard deviation over the indices of the value, see `ucb`."""
  return _std(_values(log_probs, class_values), log_weights)


PRIORITIES: dict[str, Priority] = {
    f.__name__: f
    for f in (
        uniform, variance, nll, joint_nll, entropy, margin, bald, var_ratios,
        ucb, scaled_mean, scaled_std,
    )
}  # fmt: skip


# Those that the means of a regression have too.
OF_NUMBERS = ('uniform', 'variance', 'ucb', 'scaled_mean', 'scaled_std')


def log_probs(likelihood: Likelihood, outputs: jax.Array) -> jax.Array:
  """What a priority takes, of outputs `[N, B, C]`.

  Log-probabilities `[N, B, C]`, or the means `[N, B]` of a regression, averaged
  over the entries of y.
  """
  if likelihood.num_classes is None:
    return likelihood.moments(outputs)[0].mean(-1)
  temperature = getattr(likelihood, 'temperature', 1.0)
  return jax.nn.log_softmax(outputs / temperature)


def _weights(values: jax.Array, log_weights: Any) -> jax.Array:
  """`[N]` weights of the indices, which add up to 1."""
  n = len(values)
  zeros = jnp.zeros(n) if log_weights is None else jnp.asarray(log_weights)
  return jax.nn.softmax(zeros)


def _log_mean(values: jax.Array, log_weights: Any) -> jax.Array:
  w = _weights(values, log_weights)
  return logsumexp(values, axis=0, b=w.reshape(-1, *[1] * (values.ndim - 1)))


def _mean_probs(log_probs: jax.Array, log_weights: Any) -> jax.Array:
  return jnp.einsum(
      'n,nbc->bc', _weights(log_probs, log_weights), jnp.exp(log_probs)
  )


def _mean(values: jax.Array, log_weights: Any) -> jax.Array:
  return jnp.tensordot(_weights(values, log_weights), values, 1)


def _std(values: jax.Array, log_weights: Any) -> jax.Array:
  squares = jnp.square(values - _mean(values, log_weights))
  return jnp.sqrt(_mean(squares, log_weights))


def _values(log_probs: jax.Array, class_values: Any) -> jax.Array:
  """`[N, B]` of each example at each index."""
  if log_probs.ndim == 2:
    return log_probs
  if class_values is None:
    return jnp.exp(log_probs[..., 0])
  return jnp.exp(log_probs) @ jnp.asarray(class_values)


def _of_label(log_probs: jax.Array, labels: jax.Array) -> jax.Array:
  """`[N, B]` of the label `[B]` of each example; NaN where it is no class."""
  found = jnp.take_along_axis(
      log_probs, labels[None, :, None], -1, mode='clip'
  )[..., 0]
  valid = (labels >= 0) & (labels < log_probs.shape[-1])
  return jnp.where(valid, found, jnp.nan)
