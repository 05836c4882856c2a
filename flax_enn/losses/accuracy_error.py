"""The share of wrong predictions."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output


@dataclasses.dataclass(frozen=True)
class AccuracyError:
  """1 where the largest of the outputs is not the label's, else 0.

  It has no gradient: give its objective the weight 0 to have it logged.

  >>> AccuracyError()(output, batch)  # logits of zeros: the first class
  Array([0., 1., 1., 0.], dtype=float32)
  """

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` losses of integer labels `batch.y` `[B]`."""
    preds, y = outputs.preds, jnp.asarray(batch.y)
    if not jnp.issubdtype(y.dtype, jnp.integer) or y.shape != preds.shape[:1]:
      raise ValueError(
          f'AccuracyError found labels {y.dtype}{list(y.shape)} beside outputs'
          f' {list(preds.shape)}; it needs one integer class number per example'
      )
    return (preds.argmax(-1) != y).astype(jnp.float32)
