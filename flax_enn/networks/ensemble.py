"""Ensembles: K independent members, chosen by a one-hot index."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.layers import check_index, contract, run_base


class Ensemble(nn.Module):
  """K members that run once each, whatever the number of indices.

  All members see every batch, so that batch statistics do not depend on the
  index. With a random network beside each member that is never trained
  (`WithPrior(Ensemble(member, K), {'member': EnsemblePrior(member)})`) it is
  "ensemble+": Osband et al., "Randomized Prior Functions for Deep Reinforcement
  Learning", arXiv:1806.03335.

  Attributes:
    member: a backbone, `(x, *, train) -> (logits [B, C], features)`.
    size: number of members K.
  """

  member: nn.Module
  size: int

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(self.size)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the output `[B, C]` of the member that `index` `[K]` names."""
    check_index(index, (self.size,), 'Ensemble (size)')
    members = run_members(self.member, x, self.size, train=train)
    return Output(contract(members, index))


def run_members(
    member: nn.Module, x: Any, size: int, *, train: bool
) -> jax.Array:
  """Runs K copies of a backbone on `x`; `[B, C, K]`, float32.

  Args:
    member: the backbone, a submodule of the module that calls this; below it
      every variable has a leading axis K.
    x: `[B, ...]` inputs, which all of them see.
    size: K.
    train: as in every network.
  """
  run = nn.vmap(
      lambda net, x: promote_to_float32(run_base(net, x, train=train)[0]),
      in_axes=None,
      out_axes=-1,
      axis_size=size,
      variable_axes={'params': 0, 'batch_stats': 0, 'frozen': 0},
      split_rngs={'params': True, 'frozen': True, 'dropout': True},
      metadata_params={nn.PARTITION_NAME: sharding.MEMBER},
  )
  return run(member, x)


def example() -> Example:
  """A tiny ensemble with batch norm, for the tests of the laws."""
  net = Ensemble(ConvNet(classes=3, channels=(2, 3), hidden=4), size=8)
  x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  return Example(net, x, index_free=('member',))
