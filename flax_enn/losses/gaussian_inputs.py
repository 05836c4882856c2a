"""Normal noise in the place of the data."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch
from flax_enn.field_checks import check_not_negative


@dataclasses.dataclass(frozen=True)
class GaussianInputs:
  """An `Objective.inputs`: x ~ N(0, scale^2), of the shapes of the batch.

  Every row counts alike, with weight and mask 1; y and the ids are left as they
  are and mean nothing.

  >>> GaussianInputs(2.0)(batch, jax.random.key(0)).x.shape
  (4, 3)

  Attributes:
    scale: standard deviation.
  """

  scale: float = 1.0

  def __post_init__(self):
    check_not_negative(self, 'scale')

  def __call__(self, batch: Batch, key: jax.Array) -> Batch:
    """A batch of generated inputs.

    Raises:
      ValueError: an input is not of floats, which noise could stand for.
    """
    leaves, treedef = jax.tree.flatten(batch.x)
    # A single array is drawn from the key itself, as in enn.
    keys = [key] if len(leaves) == 1 else jax.random.split(key, len(leaves))
    drawn = []
    for leaf, own in zip(leaves, keys):
      if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ValueError(
            f'GaussianInputs found inputs {leaf.dtype}{list(leaf.shape)}; it'
            ' stands for inputs of floats: write an `inputs` of your own'
        )
      normal = jax.random.normal(own, leaf.shape, jnp.float32)
      drawn.append((self.scale * normal).astype(leaf.dtype))
    ones = jnp.ones_like(batch.mask)
    return batch.replace(
        x=jax.tree.unflatten(treedef, drawn), weight=ones, mask=ones
    )
