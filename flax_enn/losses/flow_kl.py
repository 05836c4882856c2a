"""The divergence of generated weights from their prior, by their density."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.losses.objective import Context
from flax_enn.losses.required import extras


@dataclasses.dataclass(frozen=True)
class FlowKL:
  """(log q(u) - log N(u; 0, prior_scale^2)) / num_examples, at one index.

  For networks that generate weights and know their density, such as a
  hypermodel that is a normalizing flow (enn's hyperflow). With `nll` it is an
  ELBO: see `DiagonalKL`.

  >>> zeros = {'latent': jnp.zeros(3), 'log_prob': jnp.zeros(())}
  >>> FlowKL()(Output(output.train, extra=zeros), batch, context=context)
  Array(0.6892039, dtype=float32)

  Attributes:
    prior_scale: standard deviation of each weight under the prior.
  """

  prior_scale: float = 1.0

  def __post_init__(self):
    check_positive(self, 'prior_scale')

  def __call__(
      self, outputs: Output, batch: Batch, *, context: Context, **_
  ) -> jax.Array:
    """`[]`, of the weights `latent` and their `log_prob` `[]` in `extra`."""
    del batch
    names = ('latent', 'log_prob')
    latent, log_q = extras(outputs, names, type(self).__name__)
    log_q = jnp.reshape(log_q, ())
    log_p = normal_log_prob(latent, self.prior_scale)
    return (log_q - log_p) / context.num_examples


def normal_log_prob(latent: object, scale: float) -> jax.Array:
  """`[]` log-density of all numbers of a pytree under N(0, scale^2)."""
  total = jnp.zeros(())
  for leaf in map(promote_to_float32, jax.tree.leaves(latent)):
    squares = jnp.sum(jnp.square(leaf / scale))
    total -= 0.5 * (squares + leaf.size * math.log(2 * math.pi * scale**2))
  return total
