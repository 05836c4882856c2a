"""Squared error of regression targets."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Index, Output, Variables


@dataclasses.dataclass(frozen=True)
class L2:
  """(preds - y)^2, the mean over the C outputs, in float32 or wider.

  The mean and not the sum, so that the loss does not grow with the number of
  outputs. With one output it is enn's `L2Loss`, which knows no other case.
  """

  def __call__(
      self, output: Output, batch: Batch, index: Index, variables: Variables
  ) -> jax.Array:
    """`[B]` losses of float targets `batch.y` `[B, C]`."""
    del index, variables
    preds, y = output.preds, jnp.asarray(batch.y)
    # Never let [B] broadcast against [B, 1]: that would be [B, B].
    if not jnp.issubdtype(y.dtype, jnp.floating) or y.shape != preds.shape:
      raise ValueError(
          f'L2 found targets {y.dtype}{list(y.shape)} beside outputs'
          f' {list(preds.shape)}; it needs float targets of the shape of the'
          ' outputs. Take a regression config.dataset, or for class labels'
          " config.objectives.*.loss=dict(name='xent')"
      )
    preds = preds.astype(jnp.promote_types(preds.dtype, jnp.float32))
    return jnp.square(preds - y).mean(axis=-1)
