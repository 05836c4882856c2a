"""The mesh, and the one table that says which array axis lies on which of it.

Networks, losses and metrics know logical names (`batch`, `index`, `member` …);
only this file knows the axes of the mesh. Every mesh has the axes
`data, index, fsdp`, possibly of size 1. The table is `config.sharding`:

  batch       examples, in work that depends on the index
  base_batch  examples in index-free work (a base, a frozen prior): spread over
              the index axis too, so that its devices do not repeat the work
  index       epistemic indices
  member      members of a trained ensemble
  wide        the wide axis of large kernels

It may name further axes, those that a layer has in
`nn.with_logical_partitioning`. Names that it does not have are replicated.
"""

from collections.abc import Generator, Mapping, Sequence
import contextlib
import contextvars
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from flax_enn import annotations

DATA_AXIS, INDEX_AXIS, FSDP_AXIS = AXES = ('data', 'index', 'fsdp')

# Module attribute under which a trained ensemble keeps its members: every
# variable below it has a leading axis K, boxed or not.
MEMBER = 'member'
MIN_WIDE_SIZE = 512  # outputs from which on a kernel is split over fsdp

Rules = Mapping[str, tuple[str, ...]]

DEFAULT_RULES: Rules = {
    'batch': (DATA_AXIS, FSDP_AXIS),
    'base_batch': (DATA_AXIS, FSDP_AXIS, INDEX_AXIS),
    'index': (INDEX_AXIS,),
    MEMBER: (INDEX_AXIS,),
    'wide': (FSDP_AXIS,),
}

_rules = contextvars.ContextVar('sharding rules', default=DEFAULT_RULES)


def create_rules(table: Mapping[str, str | Sequence[str] | None]) -> Rules:
  """Reads `config.sharding`: logical name -> axis of the mesh, axes, or None.

  Raises a ValueError for an axis that no mesh has, or a name that is missing.
  """
  rules = {}
  for name, axes in table.items():
    annotations.checked(axes, str | Sequence[str] | None, repr(name))
    rules[name] = (axes,) if isinstance(axes, str) else tuple(axes or ())
    if unknown := sorted(set(rules[name]) - set(AXES)):
      raise ValueError(
          f'{name!r} names the mesh axes {unknown}; the axes are {AXES}'
      )
  if missing := sorted(set(DEFAULT_RULES) - set(rules)):
    raise ValueError(f'it has no rule for {missing}; see flax_enn/sharding')
  if rules['index'] != (INDEX_AXIS,) or INDEX_AXIS in rules['batch']:
    raise ValueError(f'{INDEX_AXIS!r} must be that of index, and not of batch')
  return rules


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Generator[None]:
  """Runs what is inside on a mesh, with these rules."""
  token = _rules.set(rules)
  try:
    with jax.set_mesh(mesh):
      yield
  finally:
    _rules.reset(token)


def spec(*names: str | None, rules: Rules | None = None) -> PartitionSpec:
  """The partition of an array whose axes have these logical names."""
  rules = _rules.get() if rules is None else rules
  return PartitionSpec(*(rules.get(name or '') or None for name in names))


def create_mesh(
    sizes: Mapping[str, int], devices: list[jax.Device] | None = None
) -> Mesh:
  """Builds a mesh.

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
    raise ValueError(f'a mesh has no axis {unknown}; its axes are {AXES}')
  shape = [sizes.get(axis, 1) for axis in AXES]
  if shape.count(-1) > 1 or any(s == 0 or s < -1 for s in shape):
    raise ValueError(
        f'the mesh is {dict(zip(AXES, shape))}; sizes are positive, and at'
        ' most one is -1 (what the others leave)'
    )
  known = math.prod(s for s in shape if s != -1)
  if len(devices) % known or (-1 not in shape and known != len(devices)):
    raise ValueError(
        f'the mesh {dict(zip(AXES, shape))} does not multiply to the'
        f' {len(devices)} devices there are; set data to -1 to let it'
        ' take what the other axes leave'
    )
  shape = [len(devices) // known if s == -1 else s for s in shape]
  slices = len(set(map(_slice, devices)))
  if shape[0] % slices:
    raise ValueError(
        f'data is {shape[0]}, which the {slices} slices do not'
        f' divide; set it to a multiple of {slices}'
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

  Does nothing outside `use_mesh`. Under `over_index`, a value that depends
  on the index must not name the index axis: use `batch` there, and `base_batch`
  for index-free work only.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  where = spec(*names)
  return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, where), x)


def constrain_index(indices: Any) -> Any:
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
    return jax.lax.with_sharding_constraint(
        leaf, PartitionSpec(*spec('index'), *free)
    )

  return jax.tree.map(split, indices)


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
        axes if size % _size(mesh, axes) == 0 else None
        for axes, size in zip(spec(*names, rules=rules), shape)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(
      place, state, is_leaf=lambda x: isinstance(x, nn.Partitioned)
  )


def _size(mesh: Any, axes: str | tuple[str, ...] | None) -> int:
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return math.prod(mesh.shape[axis] for axis in axes)


def batch_sharding(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> NamedSharding:
  """The sharding of every leaf of a `Batch`."""
  return NamedSharding(mesh, spec('batch', rules=rules))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of what every device holds in full."""
  return NamedSharding(mesh, PartitionSpec())


def batch_shard(where: NamedSharding) -> tuple[int, int]:
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
  rows = _size(mesh, where.spec[0])
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
    batch: pytree of numpy arrays, the `batch_shard` of this process.
    where: from `batch_sharding`.

  Returns:
    The pytree of global arrays `[B, ...]`; the transfer is asynchronous.
  """
  if jax.process_count() == 1:
    return jax.device_put(batch, where)  # all leaves at once
  _, count = batch_shard(where)

  def put(leaf):
    shape = (leaf.shape[0] * count, *leaf.shape[1:])
    return jax.make_array_from_process_local_data(where, leaf, shape)

  return jax.tree.map(put, batch)
