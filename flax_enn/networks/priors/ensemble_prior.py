"""Random copies of a backbone as a prior function."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.field_checks import check_not_negative
from flax_enn.networks.ensemble import run_members


class EnsemblePrior(nn.Module):
  """`size` random copies of a backbone; the index combines them linearly.

  Beside an ensemble, whose index is one-hot, each member has a prior function
  of its own.

  Attributes:
    member: a backbone, `(x, *, train) -> (logits [B, C], features)`.
    skip: entries at the start of the index that have no copy: 1 leaves out the
      constant one of `GaussianWithUnitIndexer`.
  """

  member: nn.Module
  skip: int = 0

  def __post_init__(self):
    super().__post_init__()
    check_not_negative(self, 'skip')

  @nn.compact
  def __call__(self, x: Any, size: int) -> jax.Array:
    """Maps `[B, ...]` to the basis `[B, C, D]`, float32."""
    if size <= self.skip:
      raise ValueError(
          f'the `skip` of EnsemblePrior is {self.skip}, but the index has'
          f' {size} entries; leave one at least'
      )
    basis = run_members(self.member, x, size - self.skip, train=False)
    return jnp.pad(basis, ((0, 0), (0, 0), (self.skip, 0)))
