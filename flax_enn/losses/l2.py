"""Squared error of regression targets."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, Output, promote_to_float32


@dataclasses.dataclass(frozen=True)
class L2:
  """(preds - y)^2, the mean over the C outputs, in float32 or wider.

  The mean and not the sum, so that the loss does not grow with the number of
  outputs. With one output it is enn's `L2Loss`, which knows no other case.

  >>> L2()(Output(jnp.zeros((4, 2))), batch.replace(y=jnp.ones((4, 2))))
  Array([1., 1., 1., 1.], dtype=float32)
  """

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` losses of float targets `batch.y` `[B, C]`."""
    preds, y = outputs.preds, jnp.asarray(batch.y)
    # Never let [B] broadcast against [B, 1]: that would be [B, B].
    if not jnp.issubdtype(y.dtype, jnp.floating) or y.shape != preds.shape:
      raise ValueError(
          f'L2 found targets {y.dtype}{list(y.shape)} beside outputs'
          f' {list(preds.shape)}; it needs float targets of the shape of the'
          " outputs. For class labels take the loss 'xent', for a likelihood"
          " with other outputs 'nll'"
      )
    return optax.squared_error(promote_to_float32(preds), y).mean(axis=-1)
