"""The divergence of a linear hypermodel's weights from their prior."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, Variables, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.losses.objective import Context
from flax_enn.losses.required import owner_of

_JITTER = 1e-6  # on the diagonal, as in enn


@dataclasses.dataclass(frozen=True)
class LinearKL:
  """The divergence of u = z W + b from N(0, prior_scale^2 I) / num_examples.

  Of what both have in the D directions of W `[D, P]`; u has no density in the
  others. With z ~ N(0, prior_scale^2 I) and S = W W' it is

    (tr S - D - log det S + (W b)' S^-1 (W b) / prior_scale^2) / 2

  For networks that keep trees `mean` (b) and `directions` (W, with an axis D in
  front of every leaf) in their parameters: a `Hypermodel` without `hiddens`.
  The index is taken to be z ~ N(0, prior_scale^2 I), which is not read from the
  network: its `index_scale` must be sqrt(D) · prior_scale, and go with it. With
  `nll` it is an ELBO: see `DiagonalKL`.

  >>> params = {'mean': [jnp.ones(2)], 'directions': [jnp.eye(2)]}
  >>> given = {'variables': {'params': params}, 'context': context}
  >>> LinearKL()(output, batch, **given).round(3)
  Array(0.25, dtype=float32)

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
    """`[]`: the divergence, the same for every example and index.

    Raises:
      ValueError: the weights are not linear in the index.
    """
    del outputs, batch
    names = ('mean', 'directions')
    params = owner_of(variables, names, type(self).__name__)
    if 'torso_0' in params:
      raise ValueError(
          'LinearKL needs weights that are linear in the index, but the'
          ' hypermodel has a torso of it; set its `hiddens` to (), or take'
          ' another loss'
      )
    mean, directions = (params[name] for name in names)
    dim = len(jax.tree.leaves(directions)[0])
    square, projected = jnp.zeros((dim, dim)), jnp.zeros(dim)
    for b, w in zip(jax.tree.leaves(mean), jax.tree.leaves(directions)):
      w = promote_to_float32(w).reshape(len(w), -1)
      square += w @ w.T
      projected += w @ promote_to_float32(b).ravel()
    square += _JITTER * jnp.eye(dim)
    # Not by eigenvalues, whose gradient is NaN where two are equal.
    root = jnp.linalg.cholesky(square)
    half = jax.scipy.linalg.solve_triangular(root, projected, lower=True)
    log_det = 2 * jnp.log(jnp.diagonal(root)).sum()
    total = jnp.trace(square) - dim - log_det
    total += jnp.square(half).sum() / self.prior_scale**2
    return 0.5 * total / context.num_examples
