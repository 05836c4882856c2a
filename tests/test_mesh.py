"""Meshes, and which part of a batch each host reads."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import sharding
from tests.small_states import mesh_of


@pytest.mark.parametrize(
    ('sizes', 'expected'),
    [
        ({'data': 8, 'index': 1, 'fsdp': 1}, (8, 1, 1)),
        ({'data': 2, 'index': 2, 'fsdp': 2}, (2, 2, 2)),
        ({'data': -1, 'index': 1, 'fsdp': 1}, (8, 1, 1)),
        ({'data': 2, 'index': -1, 'fsdp': 2}, (2, 2, 2)),
        ({'data': 1, 'index': 1, 'fsdp': -1}, (1, 1, 8)),
        ({'data': 8, 'index': -1, 'fsdp': 1}, (8, 1, 1)),
        ({'data': -1, 'index': 4}, (2, 4, 1)),
        ({'data': 8}, (8, 1, 1)),
    ],
    ids=str,
)
def test_mesh_has_its_sizes(sizes, expected):
  mesh = sharding.create_mesh(sizes)
  assert tuple(mesh.shape.items()) == tuple(
      zip(('data', 'index', 'fsdp'), expected)
  )
  assert set(mesh.devices.flat) == set(jax.devices())


def test_mesh_of_some_devices():
  mesh = sharding.create_mesh({'data': -1, 'index': 2}, jax.devices()[:4])
  assert mesh.devices.shape == (2, 2, 1)
  assert set(mesh.devices.flat) == set(jax.devices()[:4])


@pytest.mark.parametrize(
    ('sizes', 'message'),
    [
        ({'data': 8, 'model': 1}, r'a mesh has no axis.*model'),
        ({'data': 3}, r'the mesh .*does not multiply to the 8 devices'),
        ({'data': 4, 'index': 4}, r'does not multiply .*set data to -1'),
        ({'data': 4}, 'does not multiply to the 8 devices'),
        ({'data': -1, 'index': 3}, 'does not multiply to the 8 devices'),
        ({'data': -1, 'index': -1}, 'at most one is -1'),
        ({'data': 0, 'index': -1}, 'sizes are positive'),
        ({'data': -2, 'index': 1}, 'sizes are positive'),
    ],
    ids=str,
)
def test_mesh_of_bad_sizes_says_what_to_change(sizes, message):
  with pytest.raises(ValueError, match=message):
    sharding.create_mesh(sizes)


@dataclasses.dataclass(frozen=True)
class FakeDevice:
  id: int
  process_index: int
  slice_index: int = 0
  platform: str = 'tpu'


@dataclasses.dataclass(frozen=True, eq=False)
class FakeMesh:
  shape: dict[str, int]


@dataclasses.dataclass(frozen=True, eq=False)
class FakeSharding:
  """That of a batch on a mesh whose devices belong to hosts."""

  mesh: FakeMesh
  devices: Any
  spec: Any = (('data', 'fsdp'),)

  def devices_indices_map(self, total):
    rows = self.devices.shape[0] * self.devices.shape[2]
    assert total == (rows,)
    order = np.moveaxis(self.devices, 1, -1).reshape(rows, -1)
    return {
        device: (slice(row, row + 1),)
        for row, of_row in enumerate(order)
        for device in of_row
    }


def shards_of_hosts(shape, hosts, monkeypatch):
  """What each process finds for a batch on a mesh of devices, in order."""
  devices = [
      FakeDevice(i, host) for i, host in enumerate(hosts)
  ]
  mesh = FakeMesh(dict(zip(sharding.AXES, shape)))
  where = FakeSharding(mesh, np.reshape(devices, shape))
  found = []
  for host in sorted(set(hosts)):
    monkeypatch.setattr(jax, 'process_index', lambda host=host: host)
    found.append(sharding.process_shard(where))
  return found


@pytest.mark.parametrize(
    'shape, hosts, parts',
    [
        ((8, 1, 1), 1, [(0, 1)]),
        ((8, 1, 1), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((4, 2, 1), 2, [(0, 2), (1, 2)]),
        ((2, 4, 1), 4, [(0, 2), (0, 2), (1, 2), (1, 2)]),  # index over hosts
        ((1, 8, 1), 4, [(0, 1)] * 4),
        ((2, 1, 4), 4, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ((4, 2, 2), 8, [(i // 2 * 2 // 2, 4) for i in range(8)]),
    ],
)
def test_hosts_read_the_rows_of_their_devices(shape, hosts, parts, monkeypatch):
  size = math.prod(shape)
  owners = [i * hosts // size for i in range(size)]
  assert shards_of_hosts(shape, owners, monkeypatch) == parts


@pytest.mark.parametrize(
    ('owners', 'says'),
    [
        ([0, 1, 0, 1], r'process 0 the parts \[0, 2\] of 4'),
        ([0, 0, 0, 1], r'process 0 the parts \[0, 1, 2\] of 4'),
    ],
    ids=['apart', 'uneven'],
)
def test_hosts_that_share_no_even_part_are_refused(owners, says, monkeypatch):
  with pytest.raises(ValueError, match=rf'{says} of a batch; each process'):
    shards_of_hosts((4, 1, 1), owners, monkeypatch)


def pod(slices, hosts, chips=4):
  """Devices of slices of a pod, numbered across hosts as on a real one."""
  return [
      FakeDevice(id=chip * hosts * slices + host, process_index=host,
                 slice_index=host // (hosts // slices))
      for chip in range(chips)
      for host in range(hosts)
  ]  # fmt: skip


def arranged(sizes, devices, monkeypatch):
  """The devices in the order of the mesh, which real ones must make."""
  monkeypatch.setattr(sharding.mesh, 'Mesh', lambda array, *_, **__: array)
  return sharding.create_mesh(sizes, devices)


@pytest.mark.parametrize(
    'sizes',
    [
        {'data': -1},
        {'data': -1, 'index': 2},
        {'data': -1, 'index': 8},
        {'data': -1, 'fsdp': 8},
        {'data': 2, 'index': 4, 'fsdp': -1},
    ],
)
def test_a_host_holds_neighbouring_rows(sizes, monkeypatch):
  mesh = arranged({'index': 1, 'fsdp': 1, **sizes}, pod(2, 8), monkeypatch)
  # [data, fsdp, index]: all of a row's devices together.
  rows = np.moveaxis(mesh, 1, -1).reshape(-1, mesh.shape[1])
  for host in range(8):
    own = [
        i for i, row in enumerate(rows)
        if any(device.process_index == host for device in row)
    ]  # fmt: skip
    assert own == list(range(own[0], own[-1] + 1))
    assert own[0] % len(own) == 0


def test_the_data_axis_goes_across_slices(monkeypatch):
  mesh = arranged({'data': -1, 'index': 2}, pod(2, 4), monkeypatch)
  assert mesh.shape == (8, 2, 1)
  slices = [{device.slice_index for device in row.flat} for row in mesh]
  assert slices == [{0}] * 4 + [{1}] * 4
  with pytest.raises(ValueError, match=r'data is 1, which the 2 slices'):
    sharding.create_mesh({'index': 16}, pod(2, 4))


@pytest.mark.parametrize('device', [None, 0, 5])
def test_what_one_device_alone_has_found(device):
  """Also one of two that should hold the same rows."""
  mesh = mesh_of(data=4, index=2)
  where = sharding.batch_sharding(mesh)
  parts = [
      jax.device_put(np.full(2, d.id == device), d)
      for d in mesh.devices.flat
  ]
  found = jax.make_array_from_single_device_arrays((8,), where, parts)
  with sharding.use_mesh(mesh):
    told = jax.jit(sharding.on_any_device)(found)
  assert [bool(s.data) for s in told.addressable_shards] == [
      device is not None
  ] * 8


def test_what_is_found_without_a_mesh():
  for found in ([False, True], [False, False]):
    assert bool(sharding.on_any_device(jnp.array(found))) == any(found)
