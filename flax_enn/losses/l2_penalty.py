"""The penalty on the size of the trained parameters."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Index, Output, Variables


@dataclasses.dataclass(frozen=True)
class L2Penalty:
  """scale * the sum of squares of the kernels in `params`.

  Priors and pre-trained bases live in the collection `frozen` and are never
  counted. (Weight decay in the optimizer is not this for adaptive optimizers:
  Loshchilov and Hutter, arXiv:1711.05101.)

  Attributes:
    scale: factor of the sum of squares, at least 0.
    biases: count every parameter, not only those named `...kernel`.
  """

  scale: float
  biases: bool = False

  def __post_init__(self):
    if self.scale < 0:
      raise ValueError(
          f'scale is {self.scale}; set config.objectives.*.loss.scale to at'
          ' least 0'
      )

  def __call__(
      self, output: Output, batch: Batch, index: Index, variables: Variables
  ) -> jax.Array:
    """`[]`: the penalty, the same for every example and index."""
    del output, batch, index
    leaves = jax.tree.leaves_with_path(variables['params'])
    squares = [
        jnp.sum(jnp.square(p.astype(jnp.promote_types(p.dtype, jnp.float32))))
        for path, p in leaves
        if self.biases or _name(path).endswith('kernel')
    ]
    return self.scale * sum(squares, jnp.zeros(()))


def _name(path: tuple[jax.tree_util.KeyEntry, ...]) -> str:
  # A boxed parameter ends in an attribute `.value` below its name.
  keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
  return str(keys[-1])
