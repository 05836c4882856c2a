"""The variational bound of a Bayesian last layer, without sampling."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.losses.objective import Context
from flax_enn.losses.required import extras


@dataclasses.dataclass(frozen=True)
class VbllBound:
  """At least E_z[-log p(y | x, z)] of outputs N(m, diag(v)) over the index.

  For a `Gaussian` of known scale it is the expectation itself, for a
  `Categorical` (at temperature 1, as in training) Jensen's bound of it:

    -log N(y; m, scale^2) + sum_c v_c / (2 scale^2)
    -m_y + log sum_c exp(m_c + v_c / 2)

  m is the `base` of the outputs and v their `extra['variance']`, as
  `VariationalLastLayer` emits them: every index has the same loss, so that one
  is enough (`num_indices=1`). With the divergence of the weights it is the
  bound that VBLL maximises (Harrison et al., arXiv:2404.11599, section 3):

    config.objectives = {
        'data': {'loss': {'name': 'vbll_bound'}},
        'kl': {'loss': {'name': 'diagonal_kl'}},
    }

  >>> ones = {'variance': jnp.ones((4, 2))}
  >>> out = output.replace(base=output.train, extra=ones)
  >>> VbllBound()(out, batch, context=context).round(2)
  Array([1.19, 1.19, 1.19, 1.19], dtype=float32)
  """

  def __call__(
      self, outputs: Output, batch: Batch, *, context: Context, **_
  ) -> jax.Array:
    """`[B]` losses of outputs whose `base` and variance are `[B, C]`.

    Raises:
      ValueError: the outputs are not known to be Gaussian, or the likelihood
        has no such bound.
    """
    (variance,) = extras(outputs, ('variance',), type(self).__name__)
    if outputs.base is None or outputs.prior is not None:
      found = 'no base' if outputs.base is None else 'a prior'
      raise ValueError(
          'VbllBound needs outputs that are their base plus Gaussian noise, but'
          f' the network has {found}; take it without `priors`, or the loss nll'
      )
    mean, v = map(promote_to_float32, (outputs.base, variance))
    likelihood = context.likelihood
    if isinstance(likelihood, Gaussian) and likelihood.scale is not None:
      trace = (v / likelihood.scale**2).sum(-1)
      return 0.5 * trace - likelihood.log_prob(mean, batch.y)
    if not isinstance(likelihood, Categorical):
      raise ValueError(
          'VbllBound needs the likelihood Categorical, or Gaussian with a'
          f' `scale`, but that of the model is {likelihood}; set one of these,'
          ' or take the loss nll, which samples'
      )
    half = v / (2 * likelihood.temperature)
    own = jnp.take_along_axis(half, batch.y[:, None], -1, mode='clip')[:, 0]
    bound = likelihood.log_prob(mean + half, batch.y)
    return own / likelihood.temperature - bound
