"""Cross-entropy of numbers that are spread over two neighbouring atoms."""

import dataclasses

import jax

from flax_enn.core import Batch, Output
from flax_enn.likelihoods import TwoHot
from flax_enn.losses.objective import Context


@dataclasses.dataclass(frozen=True)
class TwoHotXent:
  """-sum_c q_c log softmax(logits)_c, q the two-hot form of y less the shift.

  The value of MuZero (Schrittwieser et al., arXiv:1911.08265, appendix F) and
  enn's `Cat2HotRegression`: q is the weights of the two atoms beside a number
  whose mean it is; numbers beyond the atoms are those at the ends. Needs the
  likelihood `TwoHot`; unlike its log-density (the loss `nll`) this takes
  targets that are out of range. No gradient reaches the shift, if there is one.

  >>> two = context.replace(likelihood=TwoHot(0.0, 1.0, 2))
  >>> y = jnp.array([[0.0], [0.25], [1.0], [7.0]])
  >>> TwoHotXent()(output, batch.replace(y=y), context=two)
  Array([0.6931472, 0.6931472, 0.6931472, 0.6931472], dtype=float32)
  """

  def __call__(
      self, outputs: Output, batch: Batch, *, context: Context, **_
  ) -> jax.Array:
    """`[B]` losses of float targets `batch.y` `[B, 1]`.

    Raises:
      ValueError: the model has another likelihood.
    """
    atoms = context.likelihood
    if not isinstance(atoms, TwoHot):
      raise ValueError(
          f'TwoHotXent needs the likelihood TwoHot, but that of the model is'
          f' {atoms}; set likelihood to two_hot'
      )
    logits, shift = atoms.parts(outputs.preds)
    q = atoms.two_hot(batch.y - jax.lax.stop_gradient(shift))
    return -(q * jax.nn.log_softmax(logits)).sum(-1)
