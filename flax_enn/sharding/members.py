"""Members of a trained ensemble, each on a device of the index axis."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec

from flax_enn.sharding.mesh import INDEX_AXIS
from flax_enn.sharding.rules import MEMBER, spec


def are_split(size: int) -> bool:
  """Whether K members lie on the index axis of the mesh, so many on each."""
  devices = jax.sharding.get_abstract_mesh().shape.get(INDEX_AXIS, 1)
  on_index = spec(MEMBER) == PartitionSpec((INDEX_AXIS,))
  return on_index and devices > 1 and not size % devices


def split(
    fn: Callable[[Any, Any], tuple[jax.Array, Any]],
) -> Callable[[Any, Any], tuple[jax.Array, Any]]:
  """`fn` of each device's own members, where these `are_split`.

  Asked to split a batch of convolutions, as vmapped members are, XLA repeats
  all of them on every device of the index axis, but for TPUs. The other axes of
  the mesh are left to it.

  Args:
    fn: `(variables, x) -> (outputs [B, C, K], variables)`, where variables have
      a leading axis K: all members, or those of a device.
  """
  axis = INDEX_AXIS
  mapped = jax.shard_map(
      fn,
      in_specs=(PartitionSpec(axis), PartitionSpec()),
      out_specs=(PartitionSpec(None, None, axis), PartitionSpec(axis)),
      axis_names={axis},
  )
  return jax.jit(mapped)  # not to be run op by op
