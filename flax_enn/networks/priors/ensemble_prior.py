"""Random copies of a backbone as a prior function."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn.networks.ensemble import run_members


class EnsemblePrior(nn.Module):
  """`size` random copies of a backbone; the index combines them linearly.

  Beside an ensemble, whose index is one-hot, each member has a prior function
  of its own.

  Attributes:
    member: a backbone, `(x, *, train) -> (logits [B, C], features)`.
  """

  member: nn.Module

  @nn.compact
  def __call__(self, x: Any, size: int) -> jax.Array:
    """Maps `[B, ...]` to the basis `[B, C, D]`, float32."""
    return run_members(self.member, x, size, train=False)
