"""The penalty on the size of the trained parameters."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, Variables, promote_to_float32


@dataclasses.dataclass(frozen=True)
class L2Penalty:
  """scale * the sum of squares of the kernels in `params`.

  Priors and pre-trained bases live in the collection `frozen` and are never
  counted. (Weight decay in the optimizer is not this for adaptive optimizers:
  Loshchilov and Hutter, arXiv:1711.05101.)

  >>> L2Penalty(0.5)(output, batch, variables=variables)  # kernel of 4 ones
  Array(2., dtype=float32)

  Attributes:
    scale: factor of the sum of squares, at least 0.
    biases: count every parameter, not only those named `...kernel`.
  """

  scale: float
  biases: bool = False

  def __post_init__(self):
    if self.scale < 0:
      raise ValueError(f'scale is {self.scale}; set it to at least 0')

  def __call__(
      self, outputs: Output, batch: Batch, *, variables: Variables, **_
  ) -> jax.Array:
    """`[]`: the penalty, the same for every example and index."""
    del outputs, batch
    leaves = jax.tree.leaves_with_path(variables['params'])
    squares = [
        jnp.sum(jnp.square(promote_to_float32(p)))
        for path, p in leaves
        if self.biases or _name(path).endswith('kernel')
    ]
    return self.scale * sum(squares, jnp.zeros(()))


def _name(path: tuple[jax.tree_util.KeyEntry, ...]) -> str:
  # A boxed parameter ends in an attribute `.value` below its name.
  keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
  return str(keys[-1])
