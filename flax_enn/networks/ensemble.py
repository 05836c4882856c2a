"""Ensembles: K independent members, chosen by a one-hot index."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import backend, sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.layers import check_index, contract, run_base

# Members that are written out one by one at most: each adds to the time that
# compiling takes.
MAX_UNROLLED = 16
# Numbers in the largest kernel of a member, at least: what smaller ones save is
# less than compiling them takes.
MIN_UNROLLED = 512


class Ensemble(nn.Module):
  """K members that run once each, whatever the number of indices.

  All members see every batch, so that batch statistics do not depend on the
  index. With a random network beside each member that is never trained
  (`WithPrior(Ensemble(member, K), {'member': EnsemblePrior(member)})`) it is
  "ensemble+": Osband et al., "Randomized Prior Functions for Deep Reinforcement
  Learning", arXiv:1806.03335.

  Use: the strongest plain reference, where K times the cost is no matter.
  Cost: K forwards whatever the number of indices; K times the parameters.
  Config: dict(name='ensemble', size=10, member=dict(name='mlp',
    hiddens=(50, 50)))
  Source: Lakshminarayanan et al., arXiv:1612.01474; enn
    `networks/ensembles.py`, `einsum_mlp.py`.

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

  They are vmapped, or unrolled where `_unrolls` says so: the same variables and
  random streams, the same results to rounding. Initial values are drawn by the
  vmapped form, so that they depend on neither.

  Args:
    member: the backbone, a submodule of the module that calls this; below it
      every variable has a leading axis K.
    x: `[B, ...]` inputs, which all of them see.
    size: K.
    train: as in every network.
  """

  def run(net: nn.Module, x: Any) -> jax.Array:
    return promote_to_float32(run_base(net, x, train=train)[0])

  axes: dict[str, Any] = {
      'in_axes': nn.broadcast,
      'out_axes': -1,
      'variable_axes': {'params': 0, 'batch_stats': 0, 'frozen': 0},
      'split_rngs': {'params': True, 'frozen': True, 'dropout': True},
      'metadata_params': {nn.PARTITION_NAME: sharding.MEMBER},
  }
  if _unrolls(member, size):
    # Unrolled to its full length, a scan is no loop in the program, and still
    # traces its body once.
    unrolled = nn.scan(
        lambda net, carry, x: (carry, run(net, x)),
        length=size,
        unroll=size,
        check_constancy_invariants=False,
        **axes,
    )
    return unrolled(member, None, x)[1]
  axes['in_axes'] = None
  return nn.vmap(run, axis_size=size, **axes)(member, x)


def _unrolls(member: nn.Module, size: int) -> bool:
  """Whether members are computed one by one in the program, or vmapped.

  XLA for CPUs takes some twenty times as long for the grouped convolutions that
  vmapped ones become; dense members are no faster one by one, and compile
  faster vmapped. On GPUs vmapped members are right (docs/performance.md). So
  are those on a mesh whose index axis splits them: each unrolled one would run
  on every device of that axis.

  Args:
    member: the backbone; a variable of it with three axes or more, K apart,
      counts as the kernel of a convolution, if it is not a tiny one.
    size: K.
  """
  mesh = jax.sharding.get_abstract_mesh()
  return (
      not member.is_initializing()
      and size <= MAX_UNROLLED
      and backend.on_cpu()
      and mesh.shape.get(sharding.INDEX_AXIS, 1) == 1
      and any(
          leaf.ndim > 3 and leaf.size >= size * MIN_UNROLLED
          for leaf in jax.tree.leaves(member.variables)
      )
  )


def example() -> Example:
  """A tiny ensemble with batch norm, for the tests of the laws."""
  net = Ensemble(ConvNet(classes=3, channels=(2, 3), hidden=4), size=8)
  x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  return Example(net, x, index_free=('member',))
