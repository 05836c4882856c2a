"""A pull of the trained part to zero, and so of the network to its prior."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32


@dataclasses.dataclass(frozen=True)
class PriorMatch:
  """Half of the square of the trained part, the mean over the C outputs.

  On generated inputs (`inputs=GaussianInputs(…)`) it keeps a network with a
  prior function at that prior where there are no data: enn's
  `RegressionPriorLoss` and `ClassificationPriorLoss`. What these add with
  `distill_index=True` are objectives of their own, `DistillMean` and
  `DistillVariance`.

  >>> PriorMatch()(Output(jnp.full((4, 2), 2.0)), batch)
  Array([2., 2., 2., 2.], dtype=float32)
  """

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` losses; no target is looked at."""
    del batch
    return 0.5 * jnp.square(promote_to_float32(outputs.train)).mean(-1)
