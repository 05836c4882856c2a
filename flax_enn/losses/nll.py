"""The log-loss of whatever likelihood the model has."""

import dataclasses

import jax

from flax_enn.core import Batch, Output
from flax_enn.losses.objective import Context


@dataclasses.dataclass(frozen=True)
class Nll:
  """-log p(y | preds) under the likelihood of the model, in nats.

  For a categorical likelihood of temperature 1 (as in training) it is `Xent`,
  for a Gaussian of scale 1 half of `L2` times C, up to a constant; a learned
  variance and two-hot outputs are trained with it.

  >>> Nll()(output, batch, context=context).round(2)  # logits [4, 2] of zeros
  Array([0.69, 0.69, 0.69, 0.69], dtype=float32)
  """

  def __call__(
      self, outputs: Output, batch: Batch, *, context: Context, **_
  ) -> jax.Array:
    """`[B]` losses."""
    return -context.likelihood.log_prob(outputs.preds, batch.y)
