"""What a likelihood is: the meaning of a network's outputs.

A network emits `[B, C]` numbers; its likelihood says what they tell of y. The
data set offers one; a config may name another.
"""

import abc
from typing import ClassVar, Self

from flax import struct
import jax
from jax.nn import logsumexp
import jax.numpy as jnp
import numpy as np

from flax_enn.core import promote_to_float32


class Likelihood(abc.ABC):
  """p(y | outputs of the network), a frozen dataclass of numbers.

  Attributes:
    outputs: C, how many numbers a network must emit for an example.
    target: shape and dtype of one y, without the axis B.
    metrics: names of what evaluation reports, from `flax_enn/metrics`.
  """

  metrics: ClassVar[tuple[str, ...]] = (
      'rmse', 'nll', 'joint_nll', 'joint_nll_distinct',
  )  # fmt: skip

  @property
  @abc.abstractmethod
  def outputs(self) -> int: ...

  @property
  @abc.abstractmethod
  def target(self) -> jax.ShapeDtypeStruct: ...

  @abc.abstractmethod
  def log_prob(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
    """`[..., B]` log-density of y `[B, ...]` under outputs `[..., B, C]`.

    In float32 or wider, in nats; NaN where y is not a possible value.
    """

  @abc.abstractmethod
  def moments(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Mean and variance of y under outputs `[..., B, C]`.

    Returns:
      `[..., B, C]` probabilities of classes and None, or `[..., B, dim]` means
      and variances.
    """

  def checked(self, outputs: jax.Array) -> jax.Array:
    """Outputs `[..., C]` in float32 or wider.

    Raises:
      ValueError: they are not `self.outputs` numbers for each example, which
        would broadcast, or be read as something else.
    """
    if outputs.ndim < 1 or outputs.shape[-1] != self.outputs:
      raise ValueError(
          f'{self} needs {self.outputs} outputs for each example, but found'
          f' outputs of shape {list(outputs.shape)}; give the network as many,'
          ' or take another likelihood'
      )
    return promote_to_float32(outputs)

  @property
  def num_classes(self) -> int | None:
    """C where y is one of C classes, else None."""
    return None

  @property
  def max_disagreement(self) -> float | None:
    """The largest value of `Stats.disagreement`, if there is one."""
    return None

  @abc.abstractmethod
  def init_stats(self, batch_size: int) -> 'Stats':
    """The statistics of B examples before any index."""

  def tempered(self, temperature: float) -> 'Likelihood':
    """The likelihood whose logits are divided by a temperature first.

    Raises:
      ValueError: there are no logits, and the temperature is not 1.
    """
    if temperature != 1:
      raise ValueError(
          f'temperature is {temperature}, which divides the logits of a'
          f' classifier; {type(self).__name__} has none, so leave it at 1'
      )
    return self

  @abc.abstractmethod
  def check_targets(self, y: np.ndarray) -> tuple[np.ndarray, str]:
    """`[B]` whether each y is impossible, and what y must be, in words."""


class Stats(struct.PyTreeNode):
  """What a predictive distribution needs of the outputs at all indices.

  Weighted means over the index z, kept as running means so that no
  `[N, B, C]` array of all indices exists.

  Attributes:
    log_total: `[]` log of the sum of the weights so far.
  """

  log_total: jax.Array

  def update(self, outputs: jax.Array, log_weights: jax.Array) -> Self:
    """Folds in `[n, B, C]` outputs of n indices of log-weights `[n]`."""
    raise NotImplementedError

  @property
  def mean(self) -> jax.Array:
    """`[B, C]` mean probabilities, or `[B, ...]` mean of y."""
    raise NotImplementedError

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` epistemic uncertainty: mutual information, or a deviation."""
    raise NotImplementedError

  def uncertainty(self) -> tuple[jax.Array, jax.Array]:
    """Aleatoric and epistemic: `[B]` entropies, or `[B, dim]` variances."""
    raise NotImplementedError


class MeanStats(Stats):
  """Of a regression: the law of total variance.

  Attributes:
    likelihood: whose `moments` are mean and variance `[n, B, dim]` of y.
    log_total: `[]` log of the sum of the weights.
    mean_y: `[B, dim]` mean of y.
    epistemic: `[B, dim]` variance over z of the mean at z.
    aleatoric: `[B, dim]` mean over z of the variance at z.
  """

  likelihood: Likelihood = struct.field(pytree_node=False)
  mean_y: jax.Array
  epistemic: jax.Array
  aleatoric: jax.Array

  @classmethod
  def zeros(cls, likelihood: Likelihood, shape: tuple[int, int]) -> Self:
    """The statistics of no index, for y of shape `[B, dim]`."""
    zeros = jnp.zeros(shape)
    return cls(jnp.asarray(-jnp.inf), likelihood, zeros, zeros, zeros)

  def update(self, outputs: jax.Array, log_weights: jax.Array) -> Self:
    means, variances = self.likelihood.moments(outputs)
    total, old, new = running(self.log_total, log_weights)
    mean = old * self.mean_y + jnp.einsum('n,nbc->bc', new, means)
    # Deviations from the new mean, so that no large squares cancel (Chan,
    # Golub and LeVeque, 1979).
    spread = jnp.einsum('n,nbc->bc', new, jnp.square(means - mean))
    shift = jnp.square(self.mean_y - mean)
    return self.replace(
        log_total=total,
        mean_y=mean,
        epistemic=old * (self.epistemic + shift) + spread,
        aleatoric=old * self.aleatoric
        + jnp.einsum('n,nbc->bc', new, variances),
    )

  @property
  def mean(self) -> jax.Array:
    return self.mean_y

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` standard deviation over z, root mean square over the entries."""
    return jnp.sqrt(self.epistemic.mean(-1))

  def uncertainty(self) -> tuple[jax.Array, jax.Array]:
    return self.aleatoric, self.epistemic


def running(
    log_total: jax.Array, log_weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Shares of what was summed and of what comes, which add up to one.

  Returns:
    The new log-total `[]`, the share of the old mean `[]`, and that of each of
    the n new values `[n]`.
  """
  new = jnp.logaddexp(log_total, logsumexp(log_weights))
  # Weights of zero so far have no mean: share 0 and not NaN.
  safe = jnp.where(jnp.isneginf(new), 0.0, new)
  return new, jnp.exp(log_total - safe), jnp.exp(log_weights - safe)


def entropy(probs: jax.Array) -> jax.Array:
  """Entropy `[...]` of probabilities `[..., C]`, in nats."""
  positive = probs > 0
  # The limit of p log p, where a probability has underflowed to 0.
  logs = jnp.log(jnp.where(positive, probs, 1.0))
  return -jnp.where(positive, probs * logs, 0.0).sum(-1)
