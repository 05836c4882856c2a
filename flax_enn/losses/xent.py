"""Cross-entropy of class labels."""

from collections.abc import Sequence
import dataclasses

import jax
from jax.nn import logsumexp
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.field_checks import check_finite


@dataclasses.dataclass(frozen=True)
class Xent:
  """-sum_c q_c log softmax(preds)_c with q = (1 - s) onehot(y) + s / C.

  Or with `labels`, where q is the row y of a table of one's own. Computed in
  float32 or wider, whatever the network computes in. A label outside 0 .. C-1
  gives NaN, which training reports, and not the loss of another class.

  >>> Xent()(output, batch).round(2)  # logits [4, 2] of zeros
  Array([0.69, 0.69, 0.69, 0.69], dtype=float32)

  Attributes:
    label_smoothing: s, from 0 (the labels as they are) to below 1.
    labels: `[C, C]` numbers q, a row for each class y; None for those above.
  """

  label_smoothing: float = 0.0
  labels: Sequence[Sequence[float]] | None = None

  def __post_init__(self):
    if self.labels is not None:
      rows = tuple(tuple(map(float, row)) for row in self.labels)
      object.__setattr__(self, 'labels', rows)  # so that the loss hashes
      check_finite(self, 'labels')
      if any(len(row) != len(rows) for row in rows) or self.label_smoothing:
        raise ValueError(
            f'labels has {len(rows)} rows of {sorted({*map(len, rows)})}'
            f' numbers, and label_smoothing is {self.label_smoothing}; expected'
            ' a row for each class with a number for each, and no smoothing'
        )
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(
          f'label_smoothing is {self.label_smoothing}; set it to at least 0 and'
          ' below 1'
      )

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` losses of integer labels `batch.y` `[B]`."""
    logits, y = outputs.preds, jnp.asarray(batch.y)
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != logits.shape[:1]:
      raise ValueError(
          f'Xent found labels {y.dtype}{list(y.shape)} beside outputs'
          f' {list(logits.shape)}; it needs one integer class number per'
          f" example, [{len(logits)}]. For float targets take the loss 'l2'"
      )
    logits = promote_to_float32(logits)
    known = (y >= 0) & (y < logits.shape[-1])
    if self.labels is not None:
      table = jnp.asarray(self.labels, logits.dtype)
      if len(table) != logits.shape[-1]:
        raise ValueError(
            f'labels of Xent are of {len(table)} classes, but there are'
            f' {logits.shape[-1]} outputs; give a row for each class'
        )
      q = jnp.where(known[:, None], table[jnp.where(known, y, 0)], jnp.nan)
      return optax.softmax_cross_entropy(logits, q)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, y)
    if s := self.label_smoothing:
      uniform = logsumexp(logits, axis=-1) - logits.mean(axis=-1)
      loss = (1 - s) * loss + s * uniform
    # optax takes -1 for the last class.
    return jnp.where(known, loss, jnp.nan)
