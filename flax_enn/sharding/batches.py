"""Batches: the shard that each process reads, and the whole of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from flax_enn.sharding.mesh import AXES, axis_size
from flax_enn.sharding.rules import spec


def process_shard(where: NamedSharding) -> tuple[int, int]:
  """Which shard of every batch this process reads, and how many there are.

  Processes that differ in the index axis only have the same rows on their
  devices and read the same shard.

  Args:
    where: from `batch_sharding`.

  Returns:
    `(shard_index, shard_count)`.

  Raises:
    ValueError: the devices of some process do not hold one shard of equal size.
  """
  numbers, count = _shards(where)
  return numbers[jax.process_index()], count


@functools.cache
def _shards(where: NamedSharding) -> tuple[dict[int, int], int]:
  """The shard of each process, and their number; asked for every batch."""
  mesh = where.mesh
  rows = axis_size(mesh, where.spec[0])
  held = {}
  for device, (part,) in where.devices_indices_map((rows,)).items():
    start = part.start or 0
    stop = rows if part.stop is None else part.stop
    held.setdefault(device.process_index, set()).update(range(start, stop))
  size = len(held[min(held)])
  for process, own in held.items():
    first = min(own)
    if own != set(range(first, first + size)) or first % size or rows % size:
      raise ValueError(
          f'the mesh {dict(mesh.shape)} gives process {process} the parts'
          f' {sorted(own)} of {rows} of a batch; each process must hold'
          f' {size} neighbouring ones. Set index and fsdp so that'
          ' the devices of a host divide them, or the other way round'
      )
  numbers = {process: min(own) // size for process, own in held.items()}
  return numbers, rows // size


def make_global_batch(batch: Any, where: NamedSharding) -> Any:
  """Turns each process's shard of a batch into one global array per leaf.

  Args:
    batch: pytree of numpy arrays, the `process_shard` of this process.
    where: from `batch_sharding`.

  Returns:
    The pytree of global arrays `[B, ...]`; the transfer is asynchronous.
  """
  if jax.process_count() == 1:
    return jax.device_put(batch, where)  # all leaves at once
  _, count = process_shard(where)

  def put(leaf):
    shape = (leaf.shape[0] * count, *leaf.shape[1:])
    return jax.make_array_from_process_local_data(where, leaf, shape)

  return jax.tree.map(put, batch)


def on_any_device(found: jax.Array) -> jax.Array:
  """Whether any of the examples of a batch is found, `[]`, on any device.

  Also where devices that should hold the same rows do not: processes that
  differ in the index axis only each read them for themselves.

  Args:
    found: `[B]` booleans.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return found.any()
  number = jax.shard_map(
      lambda part: jax.lax.psum(part.sum(dtype=jnp.int32), AXES),
      in_specs=spec('batch'),
      out_specs=PartitionSpec(),
      check_vma=False,
  )(found)
  return number > 0
