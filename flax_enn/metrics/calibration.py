"""Calibration: whether predictions of confidence p are right that often."""

from typing import Any, Self

from clu import metrics
from flax import struct
import jax
import jax.numpy as jnp

from flax_enn.metrics.predictive import PredictiveStats


@struct.dataclass
class ECE(metrics.Metric):
  """Expected calibration error over equal bins of confidence.

  The confidence of an example is the highest mean probability over indices.
  Bins are half-open, `[lower, upper)`; the last holds confidence exactly 1 too.
  Guo et al., "On Calibration of Modern Neural Networks" (arXiv:1706.04599).

  >>> ece = ECE.from_model_output(predictive, batch.y, batch.mask, num_bins=4)
  >>> ece.compute().round(2)
  Array(0.15, dtype=float32)

  Attributes:
    count: `[bins]` examples in each bin.
    confidence: `[bins]` sum of their confidences.
    correct: `[bins]` number of them whose prediction is right.
  """

  count: jax.Array
  confidence: jax.Array
  correct: jax.Array

  @classmethod
  def empty(cls, num_bins: int = 15) -> Self:
    return cls(*(jnp.zeros(num_bins) for _ in range(3)))

  @classmethod
  def from_model_output(
      cls,
      predictive: PredictiveStats,
      y: jax.Array,
      mask: jax.Array,
      num_bins: int = 15,
      **_: Any,
  ) -> Self:
    """Bins the examples of one batch."""
    probs = predictive.preds
    confidence = probs.max(-1)
    correct = (probs.argmax(-1) == y).astype(jnp.float32)
    edges = jnp.linspace(0.0, 1.0, num_bins + 1)
    # Inner edges only, so that 1 falls into the last bin.
    bins = jax.nn.one_hot(jnp.digitize(confidence, edges[1:-1]), num_bins)

    def total(values):
      return bins.T @ jnp.where(mask > 0, values, 0.0)

    return cls(total(jnp.ones_like(correct)), total(confidence), total(correct))

  def merge(self, other: Self) -> Self:
    return jax.tree.map(jnp.add, self, other)

  def compute(self) -> jax.Array:
    gaps = jnp.abs(self.correct - self.confidence)
    return gaps.sum() / self.count.sum()
