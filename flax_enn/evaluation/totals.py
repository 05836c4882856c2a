"""What evaluation carries over batches: metrics, and examples for the report.

All of it has a fixed size, whatever the size of the data set.
"""

from collections.abc import Mapping
from typing import Any, Self

from clu import metrics
from flax import struct
import jax
import jax.numpy as jnp

from flax_enn.core import Batch
from flax_enn.metrics import (
    Classification,
    ClassificationMoments,
    Regression,
    RegressionMoments,
)

Moments = ClassificationMoments | RegressionMoments

BINS = 30


class Examples(struct.PyTreeNode):
  """The examples that the indices disagree on most, `[k, ...]` in each leaf.

  Attributes:
    disagreement: `[k]` as in the moments; -inf marks what is no example.
    values: what is kept of them: `x`, `y`, `id`, `preds`, `base`.
  """

  disagreement: jax.Array
  values: dict[str, Any]

  def top(self, k: int) -> Self:
    """The k of them with the highest disagreement, in falling order."""
    _, rows = jax.lax.top_k(self.disagreement, k)
    return jax.tree.map(lambda leaf: leaf[rows], self)


class Totals(struct.PyTreeNode):
  """Sums over the examples seen so far.

  Attributes:
    metrics: a `clu` collection for `enn`, and for `base` where there is one.
    disagreement: `[2, BINS]` number of examples over disagreement: those
      classified rightly, and those not. Bin i begins at (i / BINS)^3 log C,
      since it is little for most. None in regression.
    examples: see `Examples`.
  """

  metrics: dict[str, metrics.Collection]
  disagreement: jax.Array | None
  examples: Examples

  def merge(self, other: Self) -> Self:
    """The totals of both; examples stay as many as there are here."""
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), self.examples, other.examples
    )
    return type(self)(
        {k: v.merge(other.metrics[k]) for k, v in self.metrics.items()},
        jax.tree.map(jnp.add, self.disagreement, other.disagreement),
        both.top(len(self.examples.disagreement)),
    )


def batch_totals(
    moments: Mapping[str, Moments], batch: Batch, num_examples: int
) -> Totals:
  """The totals of one batch.

  Args:
    moments: of `enn`, and of `base` where there is one.
    batch: what they are the moments of.
    num_examples: how many examples are kept, at most.
  """
  enn = moments['enn']
  classifies = isinstance(enn, ClassificationMoments)
  task = Classification if classifies else Regression
  values = {'x': batch.x, 'y': batch.y, 'id': batch.id}
  values |= {'preds': _predictions(enn)}
  if 'base' in moments:
    values |= {'base': _predictions(moments['base'])}
  examples = Examples(
      jnp.where(batch.mask > 0, enn.disagreement, -jnp.inf), values
  )
  return Totals(
      metrics={
          who: task.single_from_model_output(
              moments=of, y=batch.y, mask=batch.mask
          )
          for who, of in moments.items()
      },
      disagreement=_histogram(enn, batch) if classifies else None,
      examples=examples.top(min(num_examples, len(batch.mask))),
  )


def _predictions(moments: Moments) -> jax.Array:
  """`[B, C]` mean probabilities, or means in regression."""
  if isinstance(moments, ClassificationMoments):
    return jnp.exp(moments.mean_log_probs)
  return moments.mean_preds


def _histogram(moments: ClassificationMoments, batch: Batch) -> jax.Array:
  """`[2, BINS]` part of a batch in `Totals.disagreement`."""
  part = moments.disagreement / jnp.log(moments.log_probs.shape[-1])
  place = (jnp.cbrt(part) * BINS).astype(jnp.int32)
  bins = jax.nn.one_hot(jnp.clip(place, 0, BINS - 1), BINS)
  right = moments.log_probs.argmax(-1) == batch.y
  return (jnp.stack([right, ~right]) * batch.mask) @ bins
