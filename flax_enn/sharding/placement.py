"""Where the arrays of a train state, and of a batch, lie on the mesh."""

from typing import Any

from flax import linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flax_enn.sharding.mesh import axis_size
from flax_enn.sharding.rules import DEFAULT_RULES, MEMBER, Rules, spec

MIN_WIDE_SIZE = 512  # outputs from which on a kernel is split over fsdp


def state_shardings(
    state: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES
) -> Any:
  """The sharding of every leaf of a train state, from its abstract values.

  A leaf boxed by `nn.with_logical_partitioning` goes where its names say; an
  axis that its mesh axis does not divide is replicated. The outputs of a kernel
  that has many (`MIN_WIDE_SIZE`) are `wide`. Every variable below a trained
  ensemble's `member` (kernels, biases, norms, statistics, optimizer moments)
  has its leading axis over the index axis of the mesh, whether it is boxed or
  not. Members of frozen ensembles are replicated, and all the rest is too.

  Args:
    state: abstract train state, from `jax.eval_shape`.
    mesh: from `create_mesh`.
    rules: from `create_rules`.

  Returns:
    The same tree without boxes, of `NamedSharding`s.
  """

  def place(path, leaf):
    names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
    keys = [getattr(k, 'key', getattr(k, 'name', None)) for k in path]
    shape = nn.unbox(leaf).shape
    if not names and keys[-1] == 'kernel' and len(shape) > 1:
      # The widest axis but the first, which is that of an ensemble's members.
      size, axis = max((size, axis) for axis, size in enumerate(shape) if axis)
      if size >= MIN_WIDE_SIZE:
        names = ['wide' if i == axis else None for i in range(len(shape))]
    if MEMBER in keys:
      names = (MEMBER, *names[1:])
    if 'frozen' in keys:
      names = tuple(None if name == MEMBER else name for name in names)
    axes = [
        axes if size % axis_size(mesh, axes) == 0 else None
        for axes, size in zip(spec(*names, rules=rules), shape)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(
      place, state, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  )


def placed(boxed: Any, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Any:
  """Abstract values without their boxes, each with its `state_shardings`."""
  return jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=where
      ),
      nn.unbox(boxed),
      state_shardings(boxed, mesh, rules),
  )


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
  """The sharding of every leaf of a `Batch`."""
  return NamedSharding(mesh, spec('batch', rules=rules))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())
