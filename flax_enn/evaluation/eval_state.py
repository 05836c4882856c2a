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
from flax_enn.likelihoods import Likelihood
from flax_enn.metrics import PredictiveStats, collection

BINS = 30


class Examples(struct.PyTreeNode):
  """The examples that the indices disagree on most, `[k, ...]` in each leaf.

  Attributes:
    disagreement: `[k]` as in the statistics; -inf marks padding.
    values: what is kept of them: `x`, `y`, `id`, and mean predictions by name.
  """

  disagreement: jax.Array
  values: dict[str, Any]

  def top(self, k: int) -> Self:
    """The k of them with the highest disagreement, in falling order."""
    _, rows = jax.lax.top_k(self.disagreement, k)
    return jax.tree.map(lambda leaf: leaf[rows], self)


class EvalState(struct.PyTreeNode):
  """Sums over the examples seen so far.

  Attributes:
    metrics: a `clu` collection for each prediction, by name.
    disagreement: `[2, BINS]` number of examples over disagreement: those
      classified rightly, and those not. Bin i begins at (i / BINS)^3 of the
      largest possible value, since it is little for most. None where there is
      no largest value.
    examples: see `Examples`.
  """

  metrics: dict[str, metrics.Collection]
  disagreement: jax.Array | None
  examples: Examples

  @classmethod
  def of_batch(
      cls,
      predictions: Mapping[str, PredictiveStats],
      batch: Batch,
      likelihood: Likelihood,
      num_examples: int,
  ) -> Self:
    """The state after one batch.

    Args:
      predictions: statistics of each prediction by name, `enn` among them.
      batch: what they were made for.
      likelihood: of the model.
      num_examples: how many examples are kept, at most.
    """
    enn = predictions['enn']
    metric = collection(likelihood.metrics)
    values = {'x': batch.x, 'y': batch.y, 'id': batch.id}
    values |= {name: stats.preds for name, stats in predictions.items()}
    examples = Examples(
        jnp.where(batch.mask > 0, enn.disagreement, -jnp.inf), values
    )
    return cls(
        metrics={
            name: metric.single_from_model_output(
                predictive=stats, y=batch.y, mask=batch.mask
            )
            for name, stats in predictions.items()
        },
        disagreement=_histogram(enn, batch, likelihood.max_disagreement),
        examples=examples.top(min(num_examples, len(batch.mask))),
    )

  def merge(self, other: Self) -> Self:
    """The state after both; examples stay as many as there are here."""
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), self.examples, other.examples
    )
    return type(self)(
        {k: v.merge(other.metrics[k]) for k, v in self.metrics.items()},
        jax.tree.map(jnp.add, self.disagreement, other.disagreement),
        both.top(len(self.examples.disagreement)),
    )


def _histogram(
    enn: PredictiveStats, batch: Batch, largest: float | None
) -> jax.Array | None:
  """`[2, BINS]` part of a batch in `EvalState.disagreement`."""
  if not largest:
    return None
  place = (jnp.cbrt(enn.disagreement / largest) * BINS).astype(jnp.int32)
  bins = jax.nn.one_hot(jnp.clip(place, 0, BINS - 1), BINS)
  right = enn.preds.argmax(-1) == batch.y
  return (jnp.stack([right, ~right]) * batch.mask) @ bins
