"""The divergence of Gaussian weights from a scale mixture, by sampling."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, Variables, promote_to_float32
from flax_enn.field_checks import check_positive, check_share
from flax_enn.losses.objective import Context
from flax_enn.losses.required import extras, log_softplus, trees

_LOG_2PI = math.log(2 * math.pi)
_LEAST = 1e-18  # that u - m is divided by: whose square float32 holds


@dataclasses.dataclass(frozen=True)
class MixtureKL:
  """(log q(u) - log p(u)) / num_examples at the weights u of one index.

  q is a Gaussian for each weight; under p each weight is drawn from share ·
  N(0, scale_1^2) + (1 - share) · N(0, scale_2^2), the prior of Blundell et al.
  (arXiv:1505.05424, section 3.3). Its mean over indices is the divergence,
  which has no closed form. For networks as in `DiagonalKL`, which emit u as
  `extra['generated']`; see there for an ELBO. A step keeps the u of all its
  indices: take few.

  >>> ones = {'kernel': jnp.ones(3)}
  >>> out = Output(output.train, extra={'generated': ones})
  >>> given = {'variables': {'params': {'mean': ones, 'rho': ones}}}
  >>> MixtureKL()(out, batch, context=context, **given).round(3)
  Array(0.171, dtype=float32)

  Attributes:
    scale_1: standard deviation of the first Gaussian.
    scale_2: of the second.
    share: of the first.
  """

  scale_1: float = 1.0
  scale_2: float = 1.0
  share: float = 1.0

  def __post_init__(self):
    check_positive(self, 'scale_1', 'scale_2')
    check_share(self, 'share')

  def __call__(
      self,
      outputs: Output,
      batch: Batch,
      *,
      variables: Variables,
      context: Context,
      **_,
  ) -> jax.Array:
    """`[]`: of one index, the same for every example."""
    del batch
    loss = type(self).__name__
    mean, rho = trees(variables, ('mean', 'rho'), loss)
    (generated,) = extras(outputs, ('generated',), loss)
    total = jnp.zeros(())
    for u, m, r in zip(*map(jax.tree.leaves, (generated, mean, rho))):
      u, m, r = map(promote_to_float32, (u, m, r))
      scale = jnp.maximum(jax.nn.softplus(r), _LEAST)
      total += _log_normal(u - m, scale, log_softplus(r)).sum()
      total -= self.log_prior(u).sum()
    return total / context.num_examples

  def log_prior(self, u: jax.Array) -> jax.Array:
    """The log-density of each weight under the prior."""
    first, second = (
        _log_normal(u, s, math.log(s)) for s in (self.scale_1, self.scale_2)
    )
    if self.share in (0, 1):  # the logarithm of the other's would be infinite
      return first if self.share else second
    return jnp.logaddexp(
        math.log(self.share) + first, math.log1p(-self.share) + second
    )


def _log_normal(
    x: jax.Array, scale: jax.Array | float, log_scale: jax.Array | float
) -> jax.Array:
  return -0.5 * (jnp.square(x / scale) + _LOG_2PI) - log_scale
