"""Which leaf lies where on a mesh, and that nothing is done twice."""

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
from flax_enn.training.state import abstract_state, create_train_state
from tests import tiny
from tests.small_states import (
  Wide,
  assert_trees_close,
  ensemble,
  mesh_of,
  shards,
  trained,
)


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


def epinet():
  return Epinet(Wide(), ('hidden',), index_dim=2, hiddens=(5,))


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


@pytest.mark.parametrize('sizes', [(1, 1, 8), (2, 2, 2)])
def test_split_kernels_train_as_whole_ones(sizes):
  network = Deterministic(MLP(hiddens=(sharding.MIN_WIDE_SIZE,), classes=3))
  found, expected = (
      trained(network, of, optax.adam(0.1)) for of in (sizes, (1, 1, 1))
  )
  assert_trees_close(found, expected)


@pytest.mark.parametrize(('n', 'shard'), [(8, 2), (6, 6), (1, 1)])
def test_indices_are_split_where_their_axis_divides_them(n, shard):
  keys = jax.random.split(jax.random.key(0), n)
  indices = {'z': jnp.ones((n, 3)), 'keys': keys, 'log_weights': jnp.zeros(n)}
  with sharding.use_mesh(mesh_of(2, 4)):
    placed = jax.jit(sharding.constrain_index)(indices)
  for leaf in jax.tree.leaves(placed):
    assert leaf.sharding.shard_shape(leaf.shape)[0] == shard
  assert sharding.constrain_index(indices) is indices  # outside of a mesh
