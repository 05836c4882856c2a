"""The mesh: all devices, along three axes."""

from collections.abc import Mapping
import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh
import numpy as np

DATA_AXIS, INDEX_AXIS, FSDP_AXIS = AXES = ('data', 'index', 'fsdp')


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


def axis_size(mesh: Any, axes: str | tuple[str, ...] | None) -> int:
  """Over how many devices these axes of a mesh spread what lies on them."""
  axes = (axes,) if isinstance(axes, str) else axes or ()
  return math.prod(mesh.shape[axis] for axis in axes)
