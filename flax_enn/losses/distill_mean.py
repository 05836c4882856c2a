"""Distillation of the mean prediction over indices to the mean index."""

from collections.abc import Mapping
import dataclasses

import jax
from jax.nn import logsumexp
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.losses.objective import Context


@dataclasses.dataclass(frozen=True)
class DistillMean:
  """The distance of the prediction at one index from the mean over many.

  For classes the Kullback-Leibler divergence of the probabilities at the mean
  index from the mean probabilities; otherwise the squared error of the means,
  the mean over their entries. The many are the target, and get no gradient.
  Its objective has `across=True` and

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
    mean, drawn = (outputs[name].preds for name in ('mean', 'drawn'))
    mean, drawn = mean[0], jax.lax.stop_gradient(drawn)
    if context.likelihood.num_classes is None:
      target = context.likelihood.moments(drawn)[0].mean(0)
      found = context.likelihood.moments(mean)[0]
      return jnp.square(found - target).mean(-1)
    # From logits, so that no probability that underflows gives 0 · inf.
    logs = jax.nn.log_softmax(promote_to_float32(drawn))
    target = logsumexp(logs, axis=0) - jnp.log(len(logs))
    found = jax.nn.log_softmax(promote_to_float32(mean))
    return (jnp.exp(target) * (target - found)).sum(-1)
