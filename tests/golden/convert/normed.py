"""The member with batch norm that enn was recorded with."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn.checkpoints import haiku, haiku_backbones
from flax_enn.networks.layers import BatchNorm
from tests.golden.cases import Params


class Normed(nn.Module):
  """Dense, batch norm, relu, dense."""

  classes: int

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    h = nn.Dense(4, name='linear')(x)
    h = nn.relu(BatchNorm(name='norm')(h, train=train))
    return nn.Dense(self.classes, name='linear_1')(h), {}


def members(params: Params) -> dict[str, Any]:
  """Parameters of K of them, or gradients."""
  return {
      'linear': haiku.dense(params['linear']),
      'norm': haiku_backbones.batch_norm(params['batch_norm']),
      'linear_1': haiku.dense(params['linear_1']),
  }


def statistics(state: Params) -> dict[str, Any]:
  """Running statistics of K of them: sums from zero, see `haiku_resnet`."""
  found = haiku_backbones.batch_statistics(state, 'batch_norm', 'hidden')
  return {'norm': found}
