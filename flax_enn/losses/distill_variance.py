"""Distillation of the spread over indices to a variance that is emitted."""

from collections.abc import Mapping
import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.likelihoods import Gaussian
from flax_enn.losses.objective import Context
from flax_enn.losses.required import mean_and_drawn


@dataclasses.dataclass(frozen=True)
class DistillVariance:
  """KL(N(0, v) || N(0, exp(s))) = (s - log v + v exp(-s) - 1) / 2.

  v `[B, C]` is the variance over indices of the mean of y, or of the
  probability of each class; s is the log-variance that the network emits at the
  mean index: `extra['log_var']` where there is one, else that of a `Gaussian`
  likelihood that is learned. The mean over the C entries; the many indices are
  the target, and get no gradient. For the objective's fields see `DistillMean`.

  For classes the network must put `log_var` `[B, C]` into its `extra`: s of
  each class, a trained output beside the logits. `IndexMLP` does so with
  `variance_hidden` and `extra_log_var=True`.

  >>> both = jnp.array([[[1.0, 1.0]], [[-1.0, 1.0]]])  # means, log-variances
  >>> many = Output(jnp.broadcast_to(both, (2, 4, 2)))
  >>> one = Output(many.train[:1])
  >>> gaussian = context.replace(likelihood=Gaussian(1, scale=None))
  >>> DistillVariance()({'mean': one, 'drawn': many}, batch, context=gaussian)
  Array([0.18393972, 0.18393972, 0.18393972, 0.18393972], dtype=float32)

  Attributes:
    least: of v, whose logarithm is taken.
  """

  least: float = 1e-6

  def __post_init__(self):
    check_positive(self, 'least')

  def __call__(
      self,
      outputs: Mapping[str, Output],
      batch: Batch,
      *,
      context: Context,
      **_,
  ) -> jax.Array:
    """`[B]` losses, of outputs `[1, B, C]` and `[N, B, C]` by name.

    Raises:
      ValueError: the network emits no log-variance.
    """
    del batch
    mean, many = mean_and_drawn(outputs, type(self).__name__)
    drawn = jax.lax.stop_gradient(many.preds)
    likelihood = context.likelihood
    if 'log_var' in mean.extra:
      log_var = promote_to_float32(mean.extra['log_var'][0])
    elif isinstance(likelihood, Gaussian) and likelihood.scale is None:
      _, emitted = likelihood.moments(mean.preds[0])
      log_var = jnp.log(emitted)
    else:
      raise ValueError(
          'DistillVariance found no log-variance: the likelihood is'
          f' {likelihood} and the extra outputs are {sorted(mean.extra)}; emit'
          ' extra["log_var"] [B, C], as index_mlp with extra_log_var=True does,'
          ' take the likelihood gaussian with scale=None, or leave this'
          ' objective out'
      )
    variance = jnp.maximum(likelihood.moments(drawn)[0].var(0), self.least)
    ratio = variance * jnp.exp(-log_var)
    return 0.5 * (log_var - jnp.log(variance) + ratio - 1).mean(-1)
