"""Distillation of the mean prediction over indices to the mean index."""

from collections.abc import Mapping
import dataclasses

import jax
from jax.nn import logsumexp
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.likelihoods import Categorical
from flax_enn.losses.objective import Context
from flax_enn.losses.required import mean_and_drawn


@dataclasses.dataclass(frozen=True)
class DistillMean:
  """The distance of the prediction at one index from the mean over many.

  For classes the Kullback-Leibler divergence of the probabilities at the mean
  index from the mean probabilities, both at the likelihood's temperature;
  otherwise the squared error of the means, the mean over their entries. The
  many are the target, and get no gradient. Its objective has `across=True` and

    indices={'mean': MeanIndex(), 'drawn': None}

  >>> one, many = Output(jnp.zeros((4, 2))), Output(jnp.zeros((3, 4, 2)))
  >>> one = Output(one.train[None])
  >>> DistillMean()({'mean': one, 'drawn': many}, batch, context=context)
  Array([0., 0., 0., 0.], dtype=float32)
  """

  def __call__(
      self,
      outputs: Mapping[str, Output],
      batch: Batch,
      *,
      context: Context,
      **_,
  ) -> jax.Array:
    """`[B]` losses, of outputs `[1, B, C]` and `[N, B, C]` by name."""
    del batch
    one, many = mean_and_drawn(outputs, type(self).__name__)
    mean, drawn = one.preds[0], jax.lax.stop_gradient(many.preds)
    likelihood = context.likelihood
    if not isinstance(likelihood, Categorical):
      target = likelihood.moments(drawn)[0].mean(0)
      found = likelihood.moments(mean)[0]
      return jnp.square(found - target).mean(-1)
    # From logits, so that no probability that underflows gives 0 · inf.
    logs, found = (
        jax.nn.log_softmax(promote_to_float32(out) / likelihood.temperature)
        for out in (drawn, mean)
    )
    target = logsumexp(logs, axis=0) - jnp.log(len(logs))
    return (jnp.exp(target) * (target - found)).sum(-1)
