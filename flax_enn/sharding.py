"""The mesh, and the one table that says which array axis lies on which of it.

Networks, losses and metrics know logical names (`batch`, `index`, `member` …);
only this file knows the axes of the mesh. Every mesh has the axes
`data, index, fsdp`, possibly of size 1.
"""

from collections.abc import Mapping
import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

DATA_AXIS, INDEX_AXIS, FSDP_AXIS = AXES = ('data', 'index', 'fsdp')

# Module attribute under which a trained ensemble keeps its members: every
# variable below it has a leading axis K, boxed or not.
MEMBER = 'member'

# Outputs from which on a kernel is wide, and worth splitting over fsdp.
WIDE = 512


@dataclasses.dataclass(frozen=True)
class ShardingRules:
  """Logical axis name -> mesh axis, or axes.

  Attributes:
    batch: examples, in work that depends on the index.
    base_batch: examples in index-free work (a base, a frozen prior): spread
      over the index axis too, so that its devices do not repeat the work.
    index: epistemic indices.
    member: members of a trained ensemble.
    wide: the wide axis of large kernels.
  """

  batch: tuple[str, ...] = (DATA_AXIS, FSDP_AXIS)
  base_batch: tuple[str, ...] = (DATA_AXIS, FSDP_AXIS, INDEX_AXIS)
  index: tuple[str, ...] = (INDEX_AXIS,)
  member: tuple[str, ...] = (INDEX_AXIS,)
  wide: tuple[str, ...] = (FSDP_AXIS,)

  def __post_init__(self):
    for name, axes in vars(self).items():
      if unknown := sorted(set(axes) - set(AXES)):
        raise ValueError(
            f'the rule {name!r} names the mesh axes {unknown}; there are {AXES}'
        )

  def spec(self, *names: str | None) -> PartitionSpec:
    """The partition of an array whose axes have these logical names."""
    return PartitionSpec(
        *(None if name is None else getattr(self, name) for name in names)
    )


RULES = ShardingRules()


def create_mesh(
    sizes: Mapping[str, int], devices: list[jax.Device] | None = None
) -> Mesh:
  """Builds the mesh of `config.mesh`.

  Args:
    sizes: `{'data': int, 'index': int, 'fsdp': int}`; one of them may be -1
      and takes what the others leave.
    devices: all devices by default. Where they are of several slices, the data
      axis goes across these and the other two stay inside, since the network
      between slices is slow.

  Raises:
    ValueError: the sizes do not multiply to the number of devices, or the data
      axis cannot be cut into slices.
  """
  devices = jax.devices() if devices is None else devices
  unknown = sorted(set(sizes) - set(AXES))
  if unknown:
    raise ValueError(f'config.mesh has no axis {unknown}; its axes are {AXES}')
  shape = [sizes.get(axis, 1) for axis in AXES]
  if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
    raise ValueError(
        f'config.mesh is {dict(zip(AXES, shape))}; sizes are positive, and at'
        ' most one is -1 (what the others leave)'
    )
  known = math.prod(s for s in shape if s != -1)
  if len(devices) % known or (-1 not in shape and known != len(devices)):
    raise ValueError(
        f'config.mesh {dict(zip(AXES, shape))} does not multiply to the'
        f' {len(devices)} devices there are; set config.mesh.data=-1 to let it'
        ' take what the other axes leave'
    )
  shape = [len(devices) // known if s == -1 else s for s in shape]
  slices = len(set(map(_slice, devices)))
  if shape[0] % slices:
    raise ValueError(
        f'config.mesh.data is {shape[0]}, which the {slices} slices do not'
        f' divide; set config.mesh.data to a multiple of {slices}'
    )
  # By slice, host and chip: the outermost axis goes across slices, and a host
  # holds neighbouring rows of a batch. (An order by the links of a TPU, as that
  # of `mesh_utils`, scatters the rows of a host; all-reduce finds its links.)
  ordered = sorted(
      devices, key=lambda d: (_slice(d), d.process_index, d.id)
  )
  # Linen's vmap over a sharded parameter axis fails on Explicit axes.
  types = (AxisType.Auto,) * len(AXES)
  return Mesh(np.reshape(ordered, shape), AXES, axis_types=types)


def _slice(device: jax.Device) -> int:
  return getattr(device, 'slice_index', 0)


def constrain(x: Any, *names: str | None) -> Any:
  """Asks the compiler to lay the leading axes of every leaf of `x` out so.

  Does nothing outside `jax.set_mesh`. Under `over_index`, a value that depends
  on the index must not name the index axis: use `batch` there, and `base_batch`
  for index-free work only.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  spec = RULES.spec(*names)
  return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec), x)


def split_index(indices: Any) -> Any:
  """Asks the compiler to split work over indices along the index axis.

  Args:
    indices: pytree of `[N, ...]`; its other axes are left to the compiler.
      Where the index axis does not divide N, every device does all of them.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return indices

  def split(leaf):
    if leaf.shape[0] % mesh.shape[INDEX_AXIS]:
      return leaf
    free = [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
    spec = PartitionSpec(*RULES.spec('index'), *free)
    return jax.lax.with_sharding_constraint(leaf, spec)

  return jax.tree.map(split, indices)


def state_shardings(state: Any, mesh: Mesh) -> Any:
  """The sharding of every leaf of a train state, from its abstract values.

  A leaf boxed by `nn.with_logical_partitioning` goes where its names say; an
  axis that its mesh axis does not divide stays whole. The outputs of a kernel
  that has many (`WIDE`) are `wide`. Every variable below a trained ensemble's
  `member` (kernels, biases, norms, statistics, optimizer moments) has its
  leading axis over the index axis of the mesh, whether it is boxed or not.
  Frozen ensembles keep their members whole, and all the rest is whole too.

  Args:
    state: abstract train state, from `jax.eval_shape`.
    mesh: from `create_mesh`.

  Returns:
    The same tree without boxes, of `NamedSharding`s.
  """

  def place(path, leaf):
    names = leaf.names if isinstance(leaf, nn.Partitioned) else ()
    keys = [getattr(k, 'key', getattr(k, 'name', None)) for k in path]
    shape = nn.unbox(leaf).shape
    if not names and keys[-1] == 'kernel':
      # The widest axis but the first, which is that of an ensemble's members.
      size, axis = max((size, axis) for axis, size in enumerate(shape) if axis)
      if size >= WIDE:
        names = ['wide' if i == axis else None for i in range(len(shape))]
    if MEMBER in keys:
      names = (MEMBER, *names[1:])
    if 'frozen' in keys:
      names = tuple(None if name == MEMBER else name for name in names)
    spec = [
        axes if size % _size(mesh, axes) == 0 else None
        for axes, size in zip(RULES.spec(*names), shape)
    ]
    return NamedSharding(mesh, PartitionSpec(*spec))

  return jax.tree_util.tree_map_with_path(
      place, state, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  )


def _size(mesh: Mesh, axes: str | tuple[str, ...] | None) -> int:
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return math.prod(mesh.shape[axis] for axis in axes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of every leaf of a `Batch`."""
  return NamedSharding(mesh, RULES.spec('batch'))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def batch_share(mesh: Mesh) -> tuple[int, int]:
  """Which part of every batch this host reads, and in how many it is cut.

  Hosts that differ in the index axis only have the same rows on their devices
  and read the same part.

  Raises:
    ValueError: the devices of some host do not hold one part of equal size.
  """
  numbers, parts = _shares(mesh)
  return numbers[jax.process_index()], parts


@functools.cache
def _shares(mesh: Mesh) -> tuple[dict[int, int], int]:
  """The part of each host, and how many there are; asked for every batch."""
  rows = math.prod(mesh.shape[axis] for axis in RULES.batch)
  held = {}
  indices = batch_sharding(mesh).devices_indices_map((rows,))
  for device, (part,) in indices.items():
    start = part.start or 0
    stop = rows if part.stop is None else part.stop
    held.setdefault(device.process_index, set()).update(range(start, stop))
  size = len(held[min(held)])
  for host, own in held.items():
    first = min(own)
    if own != set(range(first, first + size)) or first % size or rows % size:
      raise ValueError(
          f'config.mesh {dict(mesh.shape)} gives host {host} the parts'
          f' {sorted(own)} of {rows} of a batch; each host must hold'
          f' {size} neighbouring ones. Set config.mesh.index and'
          ' config.mesh.fsdp so that the devices of a host divide them, or the'
          ' other way round'
      )
  return {host: min(own) // size for host, own in held.items()}, rows // size


def put_batch(batch: Any, mesh: Mesh) -> Any:
  """Turns each host's share of a batch into one global array per leaf.

  Args:
    batch: pytree of numpy arrays, the `batch_share` of this host.
    mesh: from `create_mesh`.

  Returns:
    The pytree of global arrays `[B, ...]`; the transfer is asynchronous.
  """
  where, (_, parts) = batch_sharding(mesh), batch_share(mesh)

  def put(leaf):
    leaf = np.asarray(leaf)
    return jax.make_array_from_process_local_data(
        where, leaf, (leaf.shape[0] * parts, *leaf.shape[1:])
    )

  return jax.tree.map(put, batch)
