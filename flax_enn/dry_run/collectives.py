"""What the devices of a compiled program send each other."""

import dataclasses
import math
import re
from typing import Any

from jax.sharding import Mesh
import numpy as np

from flax_enn.dry_run.hlo import Instruction
from flax_enn.dry_run.program import Program

NAMES = (
    'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
    'ragged-all-to-all', 'collective-permute', 'collective-broadcast', 'send',
)  # fmt: skip
_POINT_TO_POINT = ('collective-permute', 'send')


@dataclasses.dataclass(frozen=True)
class Collective:
  """All instructions of one kind over the same axes.

  Attributes:
    name: XLA's, such as `all-reduce`.
    axes: of the mesh, along which devices talk.
    over_dcn: whether some of it leaves a slice.
    count: how often it runs.
    bytes: of the full values that are reduced, gathered or exchanged.
    bytes_sent: by one device, in a ring where it is not point to point.
  """

  name: str
  axes: tuple[str, ...]
  over_dcn: bool
  count: int
  bytes: int
  bytes_sent: int


def find_collectives(program: Program, mesh: Mesh) -> list[Collective]:
  """What devices send each other, the most first.

  Args:
    program: compiled for the devices of the mesh, in their order.
    mesh: of these devices.
  """
  found: dict[Any, np.ndarray] = {}
  channels = set()
  for run in program.runs():
    name = run.instruction.opcode.removesuffix('-start')
    channel = run.instruction.attribute('channel_id', r'\d+')
    if name not in NAMES or (run.fused and channel in channels):
      continue
    if run.fused:  # all that are fused and share a channel are parts of one
      channels.add(channel)
    groups = device_groups(run.instruction, mesh.size)
    if not groups.size:  # an exchange that is that of other slices
      continue
    operands = run.operands()[:1] if name == 'send' else run.operands()
    size = sum(a.bytes for o in operands for a in o.arrays)
    members = groups.shape[1]
    if name == 'all-gather':
      size *= members
    sent = size
    if name not in _POINT_TO_POINT:
      sent = size * (members - 1) // members
    if name == 'all-reduce':
      sent *= 2
    key = (name, *_reach(groups, mesh))
    numbers = run.trip_count * np.array([1, size, sent])
    found[key] = found.get(key, np.zeros(3, np.int64)) + numbers
  rows = [Collective(*key, *values.tolist()) for key, values in found.items()]
  return sorted(rows, key=lambda row: -row.bytes_sent)


def device_groups(instruction: Instruction, devices: int) -> np.ndarray:
  """`[groups, members]` numbers of the devices that talk to each other.

  Args:
    instruction: a collective.
    devices: how many there are.
  """
  text = instruction.attributes
  if instruction.opcode.startswith('collective-permute'):
    pairs = re.search(r'source_target_pairs=\{([\d,{}]*)\}', text)
    return _numbers(pairs.group(1) if pairs else '').reshape(-1, 2)
  axes = re.search(r'replica_groups=mesh\[([^\]]*)\](.*?) \{([^}]*)\}', text)
  if axes:
    return _groups_of_mesh(*axes.groups())
  iota = re.search(r'replica_groups=(\[[\d,]+\]<=\[[\d,]+\]\S*?),? ', text)
  if iota:
    shape, order = iota.group(1).split('<=')
    return _iota(order).reshape(_numbers(shape))
  lists = re.search(r'replica_groups=\{([\d,{}]+)\}', text)
  if lists:
    groups = re.findall(r'\{([\d,]+)\}', lists.group(1))
    return np.stack([_numbers(group) for group in groups])
  return np.arange(devices)[None]


def _groups_of_mesh(sizes: str, order: str, chosen: str) -> np.ndarray:
  """Groups along axes of a mesh, as in `mesh['a'=4,'b'=2] {'b'}`.

  Args:
    sizes: of all axes.
    order: of the devices, where it is not that of their numbers.
    chosen: axes; `'a':(2)4` is the part of size 4 after one of size 2.
  """
  dims, axes, names = [], [], re.findall(r"'(\w+)'=(\d+)", sizes)
  parts = {
      name: (int(before or 1), int(size or 0))
      for name, before, size in re.findall(
          r"'(\w+)'(?::\((\d+)\)(\d+))?", chosen
      )
  }
  for name, size in names:
    before, part = parts.get(name, (1, 1))
    part = part or int(size)
    if name in parts:
      axes.append(len(dims) + 1)
    dims += [before, part, int(size) // before // part]
  inside = re.search(r'device_ids=\((.*)\)', order)
  ids = _iota(inside.group(1)) if inside else np.arange(math.prod(dims))
  last = range(-len(axes), 0)
  ids = np.moveaxis(ids.reshape(dims), axes, list(last))
  return ids.reshape(-1, math.prod(dims[axis] for axis in axes))


def _iota(text: str) -> np.ndarray:
  """Device numbers `[4,2]T(1,0)`: in this shape, with axes in this order."""
  text = text.split('<=')[-1]
  match = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?$', text)
  if not match:
    return _numbers(text)
  dims, order = match.groups()
  ids = np.arange(math.prod(_numbers(dims))).reshape(_numbers(dims))
  return ids.transpose(_numbers(order)).ravel() if order else ids.ravel()


def _numbers(text: str) -> np.ndarray:
  return np.array(re.findall(r'\d+', text), int)


def _reach(groups: np.ndarray, mesh: Mesh) -> tuple[tuple[str, ...], bool]:
  """The axes of the mesh along which groups extend, and whether over DCN."""
  coordinates = np.stack(np.unravel_index(groups, mesh.devices.shape))
  varies = (coordinates != coordinates[..., :1]).any(axis=(1, 2))
  slices = np.array(
      [getattr(d, 'slice_index', None) or 0 for d in mesh.devices.flat]
  )[groups]
  axes = tuple(n for n, along in zip(mesh.axis_names, varies) if along)
  return axes, bool((slices != slices[:, :1]).any())
