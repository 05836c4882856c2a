"""Cross-entropy of class labels."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Index, Output, Variables


@dataclasses.dataclass(frozen=True)
class Xent:
  """-sum_c q_c log softmax(preds)_c with q = (1 - s) onehot(y) + s / C.

  Computed in float32 or wider, whatever the network computes in. A label
  outside 0 .. C-1 gives NaN, which training reports, and not the loss of
  another class.

  Attributes:
    label_smoothing: s, from 0 (the labels as they are) to below 1.
  """

  label_smoothing: float = 0.0

  def __post_init__(self):
    if not 0 <= self.label_smoothing < 1:
      raise ValueError(
          f'label_smoothing is {self.label_smoothing}; set'
          ' config.objectives.*.loss.label_smoothing to at least 0 and below 1'
      )

  def __call__(
      self, output: Output, batch: Batch, index: Index, variables: Variables
  ) -> jax.Array:
    """`[B]` losses of integer labels `batch.y` `[B]`."""
    del index, variables
    logits, y = output.preds, jnp.asarray(batch.y)
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != logits.shape[:1]:
      raise ValueError(
          f'Xent found labels {y.dtype}{list(y.shape)} beside outputs'
          f' {list(logits.shape)}; it needs one integer class number per'
          f' example, [{len(logits)}]. Take a classification config.dataset, or'
          " for targets config.objectives.*.loss=dict(name='l2')"
      )
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    nll = -jax.nn.log_softmax(logits)
    loss = jnp.take_along_axis(nll, y[:, None], axis=-1, mode='clip')[:, 0]
    s = self.label_smoothing
    loss = (1 - s) * loss + s * nll.mean(axis=-1)
    return jnp.where((y >= 0) & (y < logits.shape[-1]), loss, jnp.nan)
