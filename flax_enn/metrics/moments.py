"""IndexMoments: what evaluation carries over chunks of indices, for one batch.

The metrics of an epistemic network are functions of a few averages over the
index z: of probabilities, and of products of the probabilities of several
labels at one shared z. They are kept here as running log-sum-exps, so that no
`[N, B, C]` array of all indices exists and no probability underflows. With
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


class IndexMoments(struct.PyTreeNode):
  """Sums over indices that depend on the likelihood of the labels alone.

  Attributes:
    count: `[]` number of indices folded in.
    marginal: `[B]` logsumexp_z of `l_b(z)`.
    dyadic: `[B // 2, tau + 1]` logsumexp_z of `k l_a(z) + (tau - k) l_b(z)` for
      the pairs (a, b) and k = 0 .. tau.
    distinct: `[B // tau]` logsumexp_z of the sum of `l_b(z)` over tau inputs.
  """

  count: jax.Array
  marginal: jax.Array
  dyadic: jax.Array
  distinct: jax.Array

  @property
  def tau(self) -> int:
    """Number of labels in a joint prediction."""
    return self.dyadic.shape[-1] - 1

  def mean(self, logsums: jax.Array) -> jax.Array:
    """Turns a logsumexp over indices into the log of a mean over them."""
    return logsums - jnp.log(self.count)

  def _likelihood_sums(self, log_likelihood: jax.Array) -> dict[str, jax.Array]:
    """The fields above after a chunk of log-likelihoods `[n, B]`."""
    n, batch_size = log_likelihood.shape
    tau = self.tau
    pairs = log_likelihood[:, : batch_size // 2 * 2].reshape(n, -1, 2)
    k = jnp.arange(tau + 1)
    # An event that is drawn zero times has log-likelihood 0, possible or not.
    a, b = (
        jnp.where(times > 0, times * pairs[:, :, i, None], 0.0)
        for i, times in enumerate((k, tau - k))
    )
    groups = log_likelihood[:, : batch_size // tau * tau].reshape(n, -1, tau)
    return {
        'count': self.count + n,
        'marginal': _add(self.marginal, log_likelihood),
        'dyadic': _add(self.dyadic, a + b),
        'distinct': _add(self.distinct, groups.sum(-1)),
    }


class ClassificationMoments(IndexMoments):
  """IndexMoments of a classifier.

  Attributes:
    log_probs: `[B, C]` logsumexp_z of `log p(c | x, z)`.
    entropy: `[B]` sum over z of the entropy of `p(· | x, z)`, in nats.
  """

  log_probs: jax.Array
  entropy: jax.Array

  @classmethod
  def zeros(cls, batch_size: int, classes: int, tau: int) -> Self:
    """The moments of no index."""
    return cls(
        log_probs=jnp.full((batch_size, classes), -jnp.inf),
        entropy=jnp.zeros(batch_size),
        **_no_likelihood(batch_size, tau),
    )

  def update(self, logits: jax.Array, y: jax.Array) -> Self:
    """Folds in a chunk of `[n, B, C]` logits, for labels `[B]`."""
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_likelihood = jnp.take_along_axis(
        log_probs, y[None, :, None], axis=-1, mode='clip'
    )[..., 0]
    # As in training, a label that is no class gives NaN, not another's loss.
    valid = (y >= 0) & (y < logits.shape[-1])
    log_likelihood = jnp.where(valid, log_likelihood, jnp.nan)
    return self.replace(
        log_probs=_add(self.log_probs, log_probs),
        entropy=self.entropy + _entropy(log_probs).sum(0),
        **self._likelihood_sums(log_likelihood),
    )

  @property
  def mean_log_probs(self) -> jax.Array:
    """`[B, C]` log of the mean probability over indices."""
    return self.mean(self.log_probs)

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` mutual information of label and index, in nats.

    The entropy of the mean prediction less the mean entropy of the predictions:
    0 where all indices say the same, log C where they are sure of different
    classes.
    """
    total = _entropy(self.mean_log_probs)
    return jnp.maximum(total - self.entropy / self.count, 0.0)


class RegressionMoments(IndexMoments):
  """IndexMoments of a regression with Gaussian observation noise.

  Attributes:
    mean_preds: `[B, C]` mean over z of `f(x, z)`.
    square: `[B, C]` sum over z of squared deviations from that mean.
  """

  mean_preds: jax.Array
  square: jax.Array

  @classmethod
  def zeros(cls, batch_size: int, outputs: int, tau: int) -> Self:
    """The moments of no index."""
    return cls(
        mean_preds=jnp.zeros((batch_size, outputs)),
        square=jnp.zeros((batch_size, outputs)),
        **_no_likelihood(batch_size, tau),
    )

  def update(
      self, preds: jax.Array, y: jax.Array, noise_std: jax.Array | float
  ) -> Self:
    """Folds in a chunk of `[n, B, C]` predictions, for targets `[B, C]`.

    Args:
      preds: `[n, B, C]` values of f(x, z).
      y: `[B, C]` targets.
      noise_std: `[]` or `[C]` standard deviation of the observation noise.
    """
    preds = preds.astype(jnp.float32)
    noise_std = jnp.asarray(noise_std, jnp.float32)
    log_likelihood = jax.scipy.stats.norm.logpdf(y, preds, noise_std).sum(-1)
    # Chan, Golub, LeVeque (1979): a sum of squares that does not cancel.
    n, mean = preds.shape[0], preds.mean(0)
    total = self.count + n
    delta = mean - self.mean_preds
    between = jnp.square(delta) * self.count * n / total
    return self.replace(
        mean_preds=self.mean_preds + delta * n / total,
        square=self.square + jnp.square(preds - mean).sum(0) + between,
        **self._likelihood_sums(log_likelihood),
    )

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` standard deviation of f(x, z) over z, root mean square over C."""
    return jnp.sqrt((self.square / self.count).mean(-1))


def _no_likelihood(batch_size: int, tau: int) -> dict[str, jax.Array]:
  if tau < 1:
    raise ValueError(f'tau is {tau}; set config.eval.tau to 1 or more')
  return {
      'count': jnp.zeros((), jnp.int32),
      'marginal': jnp.full(batch_size, -jnp.inf),
      'dyadic': jnp.full((batch_size // 2, tau + 1), -jnp.inf),
      'distinct': jnp.full(batch_size // tau, -jnp.inf),
  }


def _entropy(log_probs: jax.Array) -> jax.Array:
  """Entropy `[...]` of log-probabilities `[..., C]`."""
  probs = jnp.exp(log_probs)
  # The limit of p log p, where a probability has underflowed to 0.
  return -jnp.where(probs > 0, probs * log_probs, 0.0).sum(-1)


def _add(logsum: jax.Array, chunk: jax.Array) -> jax.Array:
  """Adds a chunk `[n, ...]` of logarithms to a running logsumexp `[...]`."""
  return jnp.logaddexp(logsum, logsumexp(chunk, axis=0))
