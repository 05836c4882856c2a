"""Rules: a config says which axis of an array lies where."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.layers import fan_in_init
from flax_enn.training import default_config
from tests.small_states import (
  Wide,
  assert_trees_close,
  ensemble,
  mesh_of,
  rules_of,
  shards,
  trained,
)


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


def test_an_axis_without_a_rule_is_said_once(caplog):
  for _ in range(3):
    assert sharding.spec('batch', 'my_own') == sharding.spec('batch', None)
  said = [r for r in caplog.records if "'my_own'" in r.getMessage()]
  assert len(said) == 1 and 'replicated' in said[0].getMessage()
  rules = sharding.create_rules({**sharding.DEFAULT_RULES, 'meant': None})
  sharding.spec('meant', rules=rules)
  assert not [r for r in caplog.records if "'meant'" in r.getMessage()]
