"""PredictiveStats: what evaluation carries over chunks of indices, for a batch.

The metrics of an epistemic network are functions of a few averages over the
index z: of predictions, and of products of the likelihoods of several labels at
one shared z. They are kept here as running sums, so that no `[N, B, C]` array
of all indices exists and no probability underflows. With
`l_b(z) = log p(y_b | x_b, z)`, consecutive examples `(2j, 2j + 1)` are the
dyadic pairs and `(tau j, ..., tau j + tau - 1)` the groups of distinct inputs;
what is left over at the end of a batch belongs to none.

Fold chunks with `sampling.reduce_over_index(..., init=zeros, reduce=update)`.
"""

from typing import Self

from flax import struct
import jax
from jax.nn import logsumexp
import jax.numpy as jnp

from flax_enn.likelihoods import Likelihood
from flax_enn.likelihoods.base import Stats


class PredictiveStats(struct.PyTreeNode):
  """Weighted sums over indices; weights are given as logarithms.

  >>> zeros = PredictiveStats.zeros(Categorical(2), batch_size=4, tau=2)
  >>> zeros.update(Categorical(2), output.preds[None], batch.y).preds[0]
  Array([0.5, 0.5], dtype=float32)

  Attributes:
    log_total: `[]` log of the sum of the weights w(z); log N where all are 1;
      -inf where all are 0, and then every log-loss is NaN.
    marginal: `[B]` logsumexp_z of `log w + l_b(z)`.
    dyadic: `[B // 2, tau + 1]` logsumexp_z of
      `log w + k l_a(z) + (tau - k) l_b(z)` for the pairs (a, b), k = 0 .. tau.
    distinct: `[B // tau]` logsumexp_z of log w plus `l_b(z)` of tau inputs.
    stats: of the predictive distribution, which the likelihood defines.
  """

  log_total: jax.Array
  marginal: jax.Array
  dyadic: jax.Array
  distinct: jax.Array
  stats: Stats

  @classmethod
  def zeros(cls, likelihood: Likelihood, batch_size: int, tau: int) -> Self:
    """The statistics of no index.

    Args:
      likelihood: of the outputs.
      batch_size: B.
      tau: number of labels in a joint prediction.
    """
    if tau < 1:
      raise ValueError(f'tau is {tau}; it must be at least 1')
    return cls(
        log_total=jnp.asarray(-jnp.inf),
        marginal=jnp.full(batch_size, -jnp.inf),
        dyadic=jnp.full((batch_size // 2, tau + 1), -jnp.inf),
        distinct=jnp.full(batch_size // tau, -jnp.inf),
        stats=likelihood.init_stats(batch_size),
    )

  def update(
      self,
      likelihood: Likelihood,
      outputs: jax.Array,
      y: jax.Array,
      log_weights: jax.Array | None = None,
  ) -> Self:
    """Folds in a chunk of indices.

    Args:
      likelihood: of the outputs.
      outputs: `[n, B, C]`.
      y: `[B, ...]` labels or targets.
      log_weights: `[n]` of the indices; zeros by default.
    """
    n, batch_size = outputs.shape[:2]
    log_w = jnp.zeros(n) if log_weights is None else log_weights
    log_prob = likelihood.log_prob(outputs, y)
    pairs = log_prob[:, : batch_size // 2 * 2].reshape(n, -1, 2)
    k = jnp.arange(self.tau + 1)
    # An event that is drawn zero times has log-likelihood 0, possible or not.
    a, b = (
        jnp.where(times > 0, times * pairs[:, :, i, None], 0.0)
        for i, times in enumerate((k, self.tau - k))
    )
    groups = log_prob[:, : batch_size // self.tau * self.tau]
    groups = groups.reshape(n, -1, self.tau).sum(-1)
    return self.replace(
        log_total=jnp.logaddexp(self.log_total, logsumexp(log_w)),
        marginal=_add(self.marginal, log_w, log_prob),
        dyadic=_add(self.dyadic, log_w, a + b),
        distinct=_add(self.distinct, log_w, groups),
        stats=self.stats.update(outputs, log_w),
    )

  @property
  def tau(self) -> int:
    """Number of labels in a joint prediction."""
    return self.dyadic.shape[-1] - 1

  @property
  def preds(self) -> jax.Array:
    """`[B, C]` mean probabilities, or means of y."""
    return self.stats.mean

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` how much the indices disagree."""
    return self.stats.disagreement

  def log_mean(self, logsums: jax.Array) -> jax.Array:
    """Turns a logsumexp over indices into the log of a weighted mean."""
    return logsums - self.log_total


def _add(
    logsum: jax.Array, log_weights: jax.Array, chunk: jax.Array
) -> jax.Array:
  """Adds a chunk `[n, ...]` of logarithms to a running logsumexp `[...]`."""
  weights = log_weights.reshape(-1, *[1] * (chunk.ndim - 1))
  return jnp.logaddexp(logsum, logsumexp(weights + chunk, axis=0))
