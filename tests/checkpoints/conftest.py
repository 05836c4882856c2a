"""Small train states on emulated meshes."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.training.state import TrainState


def draw_variables(seed):
  """Variables with every kind of leaf; the kernel is too big to be inlined."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return rng.normal(size=shape).astype(np.float32)

  params = {
      'base': {'Dense_0': {'kernel': normal(64, 256), 'bias': normal(256)}},
      'head': {'kernel': jnp.asarray(normal(256, 3), jnp.bfloat16)},
  }
  collections = {
      'batch_stats': {'base': {'BatchNorm_0': {'mean': normal(256)}}},
      'frozen': {'prior': {'params': {'kernel': normal(8, 128)}}},
  }
  return params, collections


def create_state(params, collections, step, mesh):
  state = TrainState(
      step=jnp.int32(step),
      key=jax.random.key(step + 7),
      first_nonfinite_step=jnp.int32(-1),
      params=params,
      collections=collections,
      opt_state=optax.adamw(1e-3).init(params),
  )

  def place(leaf):
    rows = leaf.ndim == 2 and leaf.shape[0] % 8 == 0
    spec = P((sharding.DATA_AXIS, sharding.INDEX_AXIS)) if rows else P()
    return jax.device_put(leaf, NamedSharding(mesh, spec))

  return jax.tree.map(place, state)


def draw_state(seed, mesh):
  return create_state(*draw_variables(seed), seed, mesh)


def abstract(state):
  return jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
      state,
  )


def bits(leaf):
  if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.random.key_data(leaf)
  return leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()


def assert_same(a, b):
  """The same tree of the same bits."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    assert x.dtype == y.dtype
    assert bits(x) == bits(y)


@pytest.fixture(scope='session')
def mesh():
  return sharding.create_mesh({'data': 4, 'index': 2})


@pytest.fixture(scope='session')
def one_device():
  return sharding.create_mesh({}, jax.devices()[:1])
