"""The divergence of independent Gaussian weights from their prior."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, Variables, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.losses.objective import Context
from flax_enn.losses.required import log_softplus, trees


@dataclasses.dataclass(frozen=True)
class DiagonalKL:
  """KL(prod_p N(m_p, s_p^2) || N(0, prior_scale^2 I)) / num_examples.

  Exact, for networks that keep trees `mean` and `rho` with s = softplus(rho)
  in their parameters (`BayesByBackprop`, by itself or inside another network).
  An ELBO is two objectives, which share their forward pass; a step averages the
  first over the examples, hence the division:

    {'data': Objective(Nll()), 'kl': Objective(DiagonalKL(0.7))}

  enn's `temperature` and `input_dim` are the weight sqrt(temperature) *
  input_dim of the second. A prior that is a mixture: `MixtureKL`.

  >>> zeros = {'mean': {'kernel': jnp.zeros(3)}, 'rho': {'kernel': jnp.ones(3)}}
  >>> given = {'variables': {'params': zeros}, 'context': context}
  >>> DiagonalKL()(output, batch, **given).round(3)
  Array(0.067, dtype=float32)

  Attributes:
    prior_scale: standard deviation of each weight under the prior.
  """

  prior_scale: float = 1.0

  def __post_init__(self):
    check_positive(self, 'prior_scale')

  def __call__(
      self,
      outputs: Output,
      batch: Batch,
      *,
      variables: Variables,
      context: Context,
      **_,
  ) -> jax.Array:
    """`[]`: the divergence, the same for every example and index."""
    del outputs, batch
    mean, rho = trees(variables, ('mean', 'rho'), type(self).__name__)
    total = jnp.zeros(())
    for m, r in zip(jax.tree.leaves(mean), jax.tree.leaves(rho)):
      m = promote_to_float32(m) / self.prior_scale
      r = promote_to_float32(r)
      s = jax.nn.softplus(r) / self.prior_scale
      log_s = log_softplus(r) - math.log(self.prior_scale)
      total += 0.5 * (jnp.square(s) + jnp.square(m) - 1 - 2 * log_s).sum()
    return total / context.num_examples
