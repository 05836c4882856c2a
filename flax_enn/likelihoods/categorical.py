"""The likelihood of class labels."""

import dataclasses
import math
from typing import ClassVar, Self

from flax import struct
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.likelihoods.base import Likelihood, Stats, entropy, running


@dataclasses.dataclass(frozen=True)
class Categorical(Likelihood):
  """p(y = c) = softmax(outputs / temperature)_c.

  >>> Categorical(3).log_prob(jnp.zeros((1, 3)), jnp.array([2]))
  Array([-1.0986123], dtype=float32)

  Attributes:
    classes: C.
    temperature: that the logits are divided by.
  """

  classes: int
  temperature: float = 1.0

  metrics: ClassVar[tuple[str, ...]] = (
      'accuracy', 'nll', 'joint_nll', 'joint_nll_sampled', 'joint_nll_distinct',
      'ece', 'brier',
  )  # fmt: skip

  def __post_init__(self):
    if self.classes < 1:
      raise ValueError(f'classes is {self.classes}; it must be at least 1')
    number = isinstance(self.temperature, (int, float))
    if not number or not 0 < self.temperature < float('inf'):
      raise ValueError(
          f'temperature is {self.temperature!r}; logits are divided by it, so'
          ' it is a finite number above 0'
      )

  @property
  def outputs(self) -> int:
    return self.classes

  @property
  def target(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jnp.int32)

  def tempered(self, temperature: float) -> 'Categorical':
    return dataclasses.replace(self, temperature=temperature)

  def log_prob(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
    shifted, _, total = self.exponentials(outputs)
    labels = jnp.broadcast_to(y, total.shape)[..., None]
    found = jnp.take_along_axis(shifted, labels, -1, mode='clip')[..., 0]
    # A label that is not a class is NaN, not another's loss.
    valid = (y >= 0) & (y < self.classes)
    return jnp.where(valid, found - jnp.log(total), jnp.nan)

  def moments(self, outputs: jax.Array) -> tuple[jax.Array, None]:
    _, exponentials, total = self.exponentials(outputs)
    return exponentials / total[..., None], None

  def exponentials(
      self, outputs: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Logits `[..., C]` below the largest, their exponentials and the sum.

    All that is asked of a softmax follows from these, which a compiler then
    computes once: an exponential of each output is most of what statistics
    over many indices cost.
    """
    logits = self.checked(outputs) / self.temperature
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    shifted = logits - top
    exponentials = jnp.exp(shifted)
    return shifted, exponentials, exponentials.sum(-1)

  def entropy(self, outputs: jax.Array) -> jax.Array:
    """Entropy `[...]` of the classes under outputs `[..., C]`, in nats."""
    shifted, exponentials, total = self.exponentials(outputs)
    # The limit of p log p, where a probability has underflowed to 0.
    finite = jnp.maximum(shifted, jnp.finfo(shifted.dtype).min)
    return jnp.log(total) - (exponentials * finite).sum(-1) / total

  @property
  def num_classes(self) -> int:
    return self.classes

  @property
  def max_disagreement(self) -> float:
    return math.log(self.classes)

  def init_stats(self, batch_size: int) -> 'CategoricalStats':
    return CategoricalStats(
        log_total=jnp.asarray(-jnp.inf),
        likelihood=self,
        probs=jnp.zeros((batch_size, self.classes)),
        entropy=jnp.zeros(batch_size),
    )

  def check_targets(self, y: np.ndarray) -> tuple[np.ndarray, str]:
    bad = (y < 0) | (y >= self.classes)
    return bad, f'labels are 0 to {self.classes - 1}'


class CategoricalStats(Stats):
  """Of a classifier.

  Attributes:
    log_total: `[]` log of the sum of the weights.
    likelihood: of the outputs.
    probs: `[B, C]` mean over z of `p(c | x, z)`.
    entropy: `[B]` mean over z of the entropy of `p(· | x, z)`, in nats.
  """

  likelihood: Categorical = struct.field(pytree_node=False)
  probs: jax.Array
  entropy: jax.Array

  def update(self, outputs: jax.Array, log_weights: jax.Array) -> Self:
    _, exponentials, normalizer = self.likelihood.exponentials(outputs)
    total, old, new = running(self.log_total, log_weights)
    shares = new[:, None] / normalizer
    return self.replace(
        log_total=total,
        probs=old * self.probs + (shares[..., None] * exponentials).sum(0),
        entropy=old * self.entropy + new @ self.likelihood.entropy(outputs),
    )

  @property
  def mean(self) -> jax.Array:
    return self.probs

  @property
  def disagreement(self) -> jax.Array:
    """`[B]` mutual information of label and index, in nats.

    The entropy of the mean prediction less the mean entropy of the predictions
    (Houlsby et al., arXiv:1112.5745): 0 where all indices agree, log C where
    they are certain of different classes.
    """
    return jnp.maximum(entropy(self.probs) - self.entropy, 0.0)

  def uncertainty(self) -> tuple[jax.Array, jax.Array]:
    return self.entropy, self.disagreement
