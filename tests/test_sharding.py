"""Meshes, and which leaf lies where on them."""

import dataclasses
import functools
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.core import Batch
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.layers import fan_in_init
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training import default_config
from flax_enn.training.state import abstract_state, create_train_state
from tests import tiny


def mesh_of(data=1, index=1, fsdp=1):
  return sharding.create_mesh({'data': data, 'index': index, 'fsdp': fsdp})


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


def test_constrain_does_nothing_outside_a_mesh():
  x = {'a': jnp.ones((3, 2)), 'b': jnp.ones(5)}  # divided by no mesh
  assert sharding.constrain(x, 'batch') is x
  jaxpr = jax.make_jaxpr(lambda x: sharding.constrain(x, 'base_batch'))(x)
  assert not jaxpr.eqns


@pytest.mark.parametrize(
    ('name', 'rows'), [('batch', 16 // 4), ('base_batch', 16 // 8), (None, 16)]
)
def test_constrain_lays_every_leaf_out(name, rows):
  x = {'a': jnp.ones((16, 2)), 'b': jnp.ones((16, 3, 3))}
  with sharding.use_mesh(mesh_of(2, 2, 2)):
    placed = jax.jit(lambda x: sharding.constrain(x, name))(x)
  for leaf in jax.tree.leaves(placed):
    shard = leaf.sharding.shard_shape(leaf.shape)
    assert shard == (rows, *leaf.shape[1:])


WIDE = nn.with_logical_partitioning(fan_in_init, (None, 'wide'))


class Wide(nn.Module):
  """A base with boxed kernels: `even` divides by two and four, `odd` by none.

  Attributes:
    classes: number of outputs C.
  """

  classes: int = 3

  @nn.compact
  def __call__(self, x, *, train=False):
    h = nn.Dense(8, kernel_init=WIDE, name='even')(x)
    h = nn.BatchNorm(use_running_average=not train, name='norm')(h)
    h = nn.Dense(7, kernel_init=WIDE, name='odd')(h)
    logits = nn.Dense(self.classes, name='out')(h)
    return logits, {'hidden': h}


def shards(network, mesh, tx, rules=sharding.DEFAULT_RULES):
  """Path of each leaf of the state -> its shape on one device, and in all."""
  x = jnp.ones((1, 4))
  state = abstract_state(network, tx, x, mesh, rules)
  return {
      jax.tree_util.keystr(path, simple=True, separator='/'): (
          leaf.sharding.shard_shape(leaf.shape),
          leaf.shape,
      )
      for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def epinet():
  return Epinet(Wide(), ('hidden',), index_dim=2, hiddens=(5,))


def ensemble(size):
  """One with a prior for each member."""
  return WithPrior(Ensemble(Wide(), size), {'members': EnsemblePrior(Wide())})


def test_wide_kernels_lie_on_fsdp_and_the_rest_is_whole():
  found = shards(epinet(), mesh_of(2, 1, 4), optax.adam(1.0))
  even = {path for path in found if 'even/kernel' in path}
  # The parameter and both of its moments.
  assert len(even) == 3
  for path, (shard, whole) in found.items():
    assert shard == ((4, 2) if path in even else whole), path


def test_an_axis_that_does_not_divide_stays_whole():
  found = shards(epinet(), mesh_of(2, 2, 2), optax.adam(1.0))
  assert found['params/base/even/kernel'] == ((4, 4), (4, 8))
  assert found['params/base/odd/kernel'] == ((8, 7), (8, 7))


@pytest.mark.parametrize('size', [8, 4])
def test_trained_members_lie_on_the_index_axis(size):
  """Boxed or not, parameters, statistics and moments; frozen ones are whole."""
  found = shards(ensemble(size), mesh_of(2, 4, 1), optax.adam(1.0))
  members = {path for path in found if '/member/' in path}
  trained = {path for path in members if '/frozen/' not in path}
  for path, (shard, whole) in found.items():
    if path in trained:
      assert (whole[0], shard) == (size, (size // 4, *whole[1:])), path
    else:
      assert shard == whole, path
  # Kernels, biases and norms with two moments each, and statistics.
  assert len(trained) == 3 * 8 + 2
  frozen = [path for path in found if '/frozen/' in path]
  assert len(frozen) == 8 + 2
  assert all(found[path][1][0] == size for path in frozen)


def test_a_wide_member_is_split_twice():
  found = shards(ensemble(4), mesh_of(2, 2, 2), optax.adam(1.0))
  assert found['params/member/even/kernel'] == ((2, 4, 4), (4, 4, 8))
  frozen = [p for p in found if 'frozen' in p and 'even/kernel' in p]
  assert len(frozen) == 1
  # Members of a frozen ensemble stay whole, their wide axis does not.
  assert found[frozen[0]] == ((4, 4, 4), (4, 4, 8))


def test_members_that_the_axis_does_not_divide_stay_whole():
  network = Ensemble(Wide(), size=3)
  found = shards(network, mesh_of(4, 2, 1), optax.sgd(1.0))
  assert found['params/member/out/kernel'] == ((3, 7, 3), (3, 7, 3))


def test_created_states_lie_where_the_rules_say():
  mesh, network = mesh_of(2, 2, 2), ensemble(4)
  tx, x = optax.adam(1.0), jnp.ones((1, 4))
  expected = shards(network, mesh, tx)
  abstract = abstract_state(network, tx, x, mesh)
  state = create_train_state(network, tx, 0, x, abstract)
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    shard = leaf.addressable_shards[0].data.shape
    assert (shard, leaf.shape) == expected[name], name


def test_a_global_batch_is_split_over_data_and_fsdp():
  mesh = mesh_of(2, 2, 2)
  x = np.arange(8 * 3, dtype=np.float32).reshape(8, 3)
  ids = np.arange(8, dtype=np.int32)
  batch = Batch({'a': x, 'b': x[:, 0]}, None, x[:, 0], ids, x[:, 0])
  placed = sharding.make_global_batch(batch, sharding.batch_sharding(mesh))
  assert jax.tree.structure(placed) == jax.tree.structure(batch)
  jax.tree.map(np.testing.assert_array_equal, placed, batch)
  rows = {}
  for shard in placed.id.addressable_shards:
    rows.setdefault(tuple(np.asarray(shard.data)), []).append(shard.device)
  # Four pairs of rows, each held by the two devices along the index axis.
  assert sorted(rows) == [(0, 1), (2, 3), (4, 5), (6, 7)]
  assert all(len(devices) == 2 for devices in rows.values())
  for shard in placed.x['a'].addressable_shards:
    np.testing.assert_array_equal(shard.data, x[shard.index])
    assert shard.data.shape == (2, 3)
  assert placed.id.dtype == np.int32


def flops_on_one_device(network, mesh, tx, size, num_indices):
  """FLOPs of a training step that one of the devices does; nothing is run."""
  x = jax.ShapeDtypeStruct((size, 64), jnp.float32)
  state = abstract_state(network, tx, jnp.zeros((1, 64)), mesh)
  where = sharding.batch_sharding(mesh)

  def rows(dtype, *shape):
    return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=where)

  batch = Batch(
      x=rows(x.dtype, 64),
      y=rows(jnp.int32),
      weight=rows(jnp.float32),
      id=rows(jnp.int32),
      mask=rows(jnp.float32),
  )
  step = tiny.train_step(
      network, tx, classes=4, num_examples=1000, num_indices=num_indices
  )
  with sharding.use_mesh(mesh):
    compiled = jax.jit(step).lower(state, batch).compile()
  return compiled.cost_analysis()['flops']


def flops_by_mesh(network, size, num_indices):
  """FLOPs of a step on one of 8 devices, over the splits of data and index."""
  return [
      flops_on_one_device(
          network, mesh_of(data, index), optax.sgd(0.1), size, num_indices
      )
      for data, index in [(8, 1), (2, 4), (1, 8)]
  ]


def test_law_no_idle_replicas_of_the_head():
  """Nor its own: a head that costs far more than the base is split by index."""
  network = Epinet(
      base=MLP(hiddens=(8,), classes=4),
      features=('hidden_0',),
      index_dim=4,
      hiddens=(64, 64),
  )
  found = flops_by_mesh(network, 32, 16)
  assert max(found) < 1.15 * min(found), found


def test_law_no_idle_replicas():
  """Growing the index axis does not repeat the base's work.

  The base costs so much more than the head that repeating it along an index
  axis of 8 takes 7.7 times the FLOPs.
  """
  network = Epinet(
      base=MLP(hiddens=(256, 256), classes=4),
      features=('logits',),
      index_dim=4,
      hiddens=(8,),
  )
  found = flops_by_mesh(network, 256, 8)
  # Forward and backward of the base's products for a share of the batch.
  products = 64 * 256 + 256 * 256 + 256 * 4
  base = 2 * products * 256 / 8 * 3
  assert found[0] > 0.7 * base
  assert max(found) < 1.15 * min(found), found


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


def test_wide_kernels_and_their_moments_are_split_over_fsdp():
  net = MLP(hiddens=(sharding.MIN_WIDE_SIZE, 8), classes=4)
  network = Deterministic(net)
  x = np.zeros((1, 6), np.float32)
  state = abstract_state(network, optax.adam(0.1), x, mesh_of(2, 1, 4))
  split = {
      jax.tree_util.keystr(path, simple=True, separator='/'): leaf
      for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
      if 'fsdp' in str(leaf.sharding.spec)
  }
  assert len(split) == 3  # the parameter and both moments
  for name, leaf in split.items():
    assert name.endswith('base/layer_0/kernel')
    shard = leaf.sharding.shard_shape(leaf.shape)
    assert shard == (6, sharding.MIN_WIDE_SIZE // 4)


def trained(network, sizes, tx, rules=sharding.DEFAULT_RULES):
  """Parameters and statistics after a step on a mesh."""
  x = np.asarray(jax.random.normal(jax.random.key(0), (8, 6)))
  ones = np.ones(8, np.float32)
  batch = Batch(x, np.arange(8) % 3, ones, np.arange(8, dtype=np.int32), ones)
  devices = jax.devices()[: math.prod(sizes)]
  mesh = sharding.create_mesh(dict(zip(sharding.AXES, sizes)), devices)
  abstract = abstract_state(network, tx, x, mesh, rules)
  state = create_train_state(network, tx, 0, x, abstract)
  step = tiny.train_step(
      network, tx, classes=3, num_examples=100, num_indices=4
  )
  where = sharding.batch_sharding(mesh, rules)
  with sharding.use_mesh(mesh, rules):
    state, _ = jax.jit(step)(state, sharding.make_global_batch(batch, where))
  return jax.device_get((state.params, state.collections))


def assert_trees_close(found, expected):
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
  jax.tree.map(close, found, expected)


@pytest.mark.parametrize('sizes', [(1, 1, 8), (2, 2, 2)])
def test_split_kernels_train_as_whole_ones(sizes):
  network = Deterministic(MLP(hiddens=(sharding.MIN_WIDE_SIZE,), classes=3))
  found, expected = (
      trained(network, of, optax.adam(0.1)) for of in (sizes, (1, 1, 1))
  )
  assert_trees_close(found, expected)


# Rules.


def rules_of(**changes):
  return sharding.create_rules({**sharding.DEFAULT_RULES, **changes})


def test_the_config_holds_the_default_rules():
  assert sharding.create_rules(default_config().sharding) == (
      sharding.DEFAULT_RULES
  )


def test_rules_are_axes_or_one_or_none():
  rules = rules_of(wide='data', member=None, base_batch=['data', 'fsdp'])
  assert rules['wide'] == ('data',)
  assert rules['member'] == ()
  assert rules['base_batch'] == ('data', 'fsdp')


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'batch': ('dta', 'fsdp')}, r"'batch' names the mesh axes \['dta'\]"),
        ({'layers': 'model'}, r"'layers' names the mesh axes \['model'\]"),
        ({'batch': ('data', 'index')}, "'index' must be that of index"),
        ({'index': 'fsdp'}, "'index' must be that of index"),
    ],
    ids=['unknown', 'own', 'shared', 'index elsewhere'],
)
def test_rules_know_the_axes(changes, says):
  with pytest.raises(ValueError, match=says):
    rules_of(**changes)


def test_rules_name_all_that_the_library_asks_for():
  table = {k: v for k, v in sharding.DEFAULT_RULES.items() if k != 'wide'}
  with pytest.raises(ValueError, match=r"no rule for \['wide'\]"):
    sharding.create_rules(table)


@pytest.mark.parametrize(
    ('changes', 'shard'),
    [
        ({}, (4, 8)),  # a name that no rule knows is replicated
        ({'inputs': None}, (4, 8)),
        ({'inputs': 'index'}, (2, 8)),
        ({'inputs': ('data', 'index')}, (1, 8)),
        ({'inputs': 'data', 'outputs': 'fsdp'}, (2, 4)),
    ],
    ids=str,
)
def test_layers_may_have_names_of_their_own(changes, shard):
  named = nn.with_logical_partitioning(fan_in_init, ('inputs', 'outputs'))

  class Named(nn.Module):

    @nn.compact
    def __call__(self, x, *, train=False):
      del train
      return nn.Dense(8, kernel_init=named, name='out')(x), {}

  network = Deterministic(Named())
  found = shards(network, mesh_of(2, 2, 2), optax.sgd(1.0), rules_of(**changes))
  assert found['params/base/out/kernel'] == (shard, (4, 8))


def test_members_lie_where_their_rule_says():
  network = Ensemble(Wide(), size=4)
  path = 'params/member/out/kernel'
  for axes, size in [('index', 2), ('data', 1), (('data', 'index'), None)]:
    rules = rules_of(member=axes)
    shard, whole = shards(network, mesh_of(4, 2), optax.sgd(1.0), rules)[path]
    assert whole[0] == 4
    assert shard[0] == (size or 4)  # 8 devices do not divide 4 members


def test_rules_hold_where_their_mesh_is_used():
  mesh, x = mesh_of(2, 2, 2), jnp.ones((16, 2))

  def rows():
    placed = jax.jit(lambda x: sharding.constrain(x, 'base_batch'))(x)
    return placed.sharding.shard_shape(x.shape)[0]

  with sharding.use_mesh(mesh):
    assert rows() == 2
    with sharding.use_mesh(mesh, rules_of(base_batch='data')):
      assert rows() == 8
    assert rows() == 2
    assert sharding.spec('batch', 'nobody knows', None) == (
        jax.sharding.PartitionSpec(('data', 'fsdp'), None, None)
    )
  assert sharding.spec('wide', rules=rules_of(wide=None)) == (
      jax.sharding.PartitionSpec(None)
  )


@pytest.mark.slow
@pytest.mark.parametrize(
    'changes',
    [
        {'batch': 'data', 'base_batch': 'data'},
        {'member': None, 'wide': ('data', 'fsdp')},
    ],
    ids=str,
)
def test_other_rules_train_to_the_same(changes):
  # Adam would divide rounding by rounding where a norm makes a gradient 0.
  network, tx = ensemble(4), optax.sgd(0.1)
  found = trained(network, (2, 2, 2), tx, rules_of(**changes))
  assert_trees_close(found, trained(network, (1, 1, 1), tx))


def test_a_batch_is_split_as_its_rule_says():
  mesh = mesh_of(2, 2, 2)
  cases = [('data', 4), ('fsdp', 4), (('data', 'fsdp'), 2), (None, 8)]
  for axes, rows in cases:
    where = sharding.batch_sharding(mesh, rules_of(batch=axes))
    batch = sharding.make_global_batch({'x': np.arange(8.0)}, where)
    assert batch['x'].addressable_shards[0].data.shape == (rows,)
    np.testing.assert_array_equal(batch['x'], np.arange(8.0))
    assert sharding.process_shard(where) == (0, 1)  # of one process


@pytest.mark.parametrize(('n', 'shard'), [(8, 2), (6, 6), (1, 1)])
def test_indices_are_split_where_their_axis_divides_them(n, shard):
  keys = jax.random.split(jax.random.key(0), n)
  indices = {'z': jnp.ones((n, 3)), 'keys': keys, 'log_weights': jnp.zeros(n)}
  with sharding.use_mesh(mesh_of(2, 4)):
    placed = jax.jit(sharding.constrain_index)(indices)
  for leaf in jax.tree.leaves(placed):
    assert leaf.sharding.shard_shape(leaf.shape)[0] == shard
  assert sharding.constrain_index(indices) is indices  # outside of a mesh


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


def test_an_axis_without_a_rule_is_said_once(caplog):
  for _ in range(3):
    assert sharding.spec('batch', 'my_own') == sharding.spec('batch', None)
  said = [r for r in caplog.records if "'my_own'" in r.getMessage()]
  assert len(said) == 1 and 'replicated' in said[0].getMessage()
  rules = sharding.create_rules({**sharding.DEFAULT_RULES, 'meant': None})
  sharding.spec('meant', rules=rules)
  assert not [r for r in caplog.records if "'meant'" in r.getMessage()]
