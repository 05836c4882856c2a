"""Ensembles: K independent members, chosen by a one-hot index."""

from collections.abc import Callable
import functools
from typing import Any

import flax
from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import backend, sampling, sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.checks import check_index
from flax_enn.networks.features import run_base
from flax_enn.networks.layers import contract
from flax_enn.sharding import members

# Members that are written out one by one at most. Compiling takes a second for
# each small convnet, of which some twenty steps have saved as much.
MAX_UNROLLED = 64
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

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'size')

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(self.size)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the output `[B, C]` of the member that `index` `[K]` names."""
    check_index(index, (self.size,), 'Ensemble (size)')
    basis = run_members(self.member, x, self.size, train=train)
    return Output(contract(basis, index))


def run_members(
    member: nn.Module, x: Any, size: int, *, train: bool
) -> jax.Array:
  """Runs K copies of a backbone on `x`; `[B, C, K]`, float32.

  They are computed as `_form` says: the same variables and random streams, the
  same results to rounding. Initial values are drawn by the vmapped form always.

  Args:
    member: the backbone, a submodule of the module that calls this; below it
      every variable has a leading axis K.
    x: `[B, ...]` inputs, which all of them see.
    size: K.
    train: as in every network.
  """
  axes: dict[str, Any] = {
      'in_axes': nn.broadcast,
      'out_axes': -1,
      'variable_axes': {'params': 0, 'batch_stats': 0, 'frozen': 0},
      'split_rngs': {'params': True, 'frozen': True, 'dropout': True},
      'metadata_params': {nn.PARTITION_NAME: sharding.MEMBER},
  }
  form = _form(member, x, size, train)
  if form == 'split':
    return _run_split(member, x, train)
  if form == 'unrolled':
    # A scan that is unrolled to its length is no loop in the program, and still
    # traces its body once.
    unrolled = nn.scan(
        lambda net, carry, x: (carry, _run(net, x, train)),
        length=size,
        unroll=min(size, MAX_UNROLLED),
        check_constancy_invariants=False,
        **axes,
    )
    return unrolled(member, None, x)[1]
  axes['in_axes'] = None
  run = functools.partial(_run, train=train)
  return nn.vmap(run, axis_size=size, **axes)(member, x)


def _run(member: nn.Module, x: Any, train: bool) -> jax.Array:
  return promote_to_float32(run_base(member, x, train=train)[0])


def _run_split(member: nn.Module, x: Any, train: bool) -> jax.Array:
  """Each device of the index axis runs its own members."""
  run = jax.named_scope(str(member.name))(_apart(member, train))

  def own(variables: Any, x: Any) -> tuple[jax.Array, Any]:
    if not backend.on_cpu():
      return jax.vmap(run, (0, None), (-1, 0))(variables, x)
    size = len(jax.tree.leaves(variables)[0])
    of = [jax.tree.map(lambda a, k=k: a[k], variables) for k in range(size)]
    outputs, changed = zip(*(run(each, x) for each in of))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *changed)
    return jnp.stack(outputs, -1), stacked

  outputs, changed = sampling.index_free(
      members.split(own), nn.unbox(member.variables), x
  )
  for name, value in changed.get('batch_stats', {}).items():
    member.put_variable('batch_stats', name, value)
  return outputs


def _apart(member: nn.Module, train: bool) -> Callable[[Any, Any], Any]:
  """`(variables, x) -> (logits [B, C], what changed)` of one member."""
  kept = ['batch_stats'] * member.is_mutable_collection('batch_stats')
  net = member.clone(parent=None, name=None)
  return nn.apply(functools.partial(_run, train=train), net, mutable=kept)


def _draws(member: nn.Module, x: Any, train: bool) -> bool:
  """Whether a member asks for random numbers, as dropout does."""
  one = jax.tree.map(lambda leaf: leaf[0], nn.unbox(member.variables))
  try:
    jax.eval_shape(_apart(member, train), one, x)
  except flax.errors.InvalidRngError:
    return True
  return False


def _form(member: nn.Module, x: Any, size: int, train: bool) -> str:
  """How members are computed: `vmapped`, `unrolled` one by one, or `split`.

  XLA for CPUs takes some twenty times as long for the grouped convolutions that
  vmapped ones become; dense members are no faster one by one, and compile
  faster vmapped. On GPUs vmapped members are right (docs/performance.md). On a
  mesh whose index axis splits them, XLA for CPUs does not split grouped
  convolutions, and each unrolled one would run on every device of that axis:
  there each device runs its own. Where members are replicated on such a mesh,
  the gradient of the kernels of grouped convolutions is wrong: XLA adds up what
  each device of the index axis has computed whole (docs/scale.md).

  Args:
    member: the backbone; a variable of it with three axes or more, K apart,
      counts as the kernel of a convolution.
    x: `[B, ...]` inputs.
    size: K.
    train: as in every network.
  """
  kernels = [v for v in jax.tree.leaves(member.variables) if v.ndim > 3]
  if member.is_initializing() or not kernels:
    return 'vmapped'
  large = any(kernel.size >= size * MIN_UNROLLED for kernel in kernels)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.shape.get(sharding.INDEX_AXIS, 1) == 1:
    few = size <= MAX_UNROLLED
    return 'unrolled' if large and few and backend.on_cpu() else 'vmapped'
  if not members.are_split(size):
    return 'unrolled'
  # (Which random numbers a member draws depends on how it is called.)
  vmapped = backend.on_tpu() or not large or _draws(member, x, train)
  return 'vmapped' if vmapped else 'split'


def example() -> Example:
  """A tiny ensemble with batch norm, for the tests of the laws."""
  net = Ensemble(ConvNet(classes=3, channels=(2, 3), hidden=4), size=8)
  x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  return Example(net, x, index_free=('member',))
