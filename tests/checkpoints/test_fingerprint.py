import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.checkpoints import fingerprint
from flax_enn.checkpoints.fingerprint import fingerprints, hash_leaf

rng = np.random.default_rng(0)
LEAVES = {
    'float32': rng.normal(size=(16, 6)).astype(np.float32),
    'bfloat16': rng.normal(size=(8, 3)).astype(jnp.bfloat16),
    'float16': rng.normal(size=(8, 3)).astype(np.float16),
    'float64': rng.normal(size=(8, 3)),
    'int32': rng.integers(-9, 9, (8, 2, 5), np.int32),
    'int8': rng.integers(-9, 9, (8,), np.int8),
    'uint16': rng.integers(0, 9, (8,), np.uint16),
    'bool': rng.integers(0, 2, (8, 9)).astype(bool),
    'scalar': np.float32(3),
    'empty': np.zeros((0, 4), np.float32),
    'nan': np.array([np.nan, np.inf, -0.0], np.float32),
}


def slow(array):
  """The definition, one word after the other, in Python's own integers."""
  flat = np.atleast_1d(array)
  if flat.dtype.itemsize == 8:
    flat = flat.view(np.uint32)
  elif flat.dtype != bool:
    flat = flat.view(f'u{flat.dtype.itemsize}')
  total = 0
  for position, word in enumerate(flat.reshape(-1).tolist()):
    h = position
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    total += int(word) * ((h ^ h >> 16) | 1)
  return total % 2**32


@pytest.mark.parametrize('name', LEAVES)
def test_equals_the_definition_on_every_mesh(name):
  array = LEAVES[name]
  with jax.enable_x64(name == 'float64'):
    for sizes in ({}, {'data': 2}, {'data': 4, 'index': 2}):
      devices = jax.devices()[: int(np.prod([*sizes.values()]))]
      mesh = sharding.create_mesh(sizes, devices)
      split = array.ndim and array.shape[0] and array.shape[0] % 8 == 0
      spec = P((sharding.DATA_AXIS, sharding.INDEX_AXIS)) if split else P()
      leaf = jax.device_put(array, NamedSharding(mesh, spec))
      assert leaf.dtype == array.dtype
      assert fingerprints({'a': {'b': leaf}}) == {'a/b': slow(array)}


def test_of_a_key_is_that_of_its_numbers():
  key = jax.random.key(3)
  numbers = jax.random.key_data(key)
  assert fingerprints({'k': key}) == fingerprints({'k': numbers})


def test_any_bit_and_any_exchange_changes_it():
  base = LEAVES['float32']
  changed = []
  for position in range(base.size):
    for bit in range(32):
      other = base.copy()
      other.reshape(-1).view(np.uint32)[position] ^= np.uint32(1 << bit)
      changed.append(other)
  for position in range(1, base.size):
    other = base.copy().reshape(-1)
    other[[0, position]] = other[[position, 0]]
    changed.append(other.reshape(base.shape))
  stack = jnp.asarray(np.stack(changed))
  found = jax.jit(jax.vmap(hash_leaf))(stack)
  assert not (np.asarray(found) == slow(base)).any()


def test_of_nothing_is_nothing():
  assert fingerprints({}) == {}


def test_leaves_take_turns_in_memory():
  leaves = {f'leaf{i}': jnp.ones((256, 256)) for i in range(16)}
  lowered = fingerprint._hash_leaves.lower(leaves, jnp.uint32(0))
  memory = lowered.compile().memory_analysis()
  one = leaves['leaf0'].nbytes
  assert memory.temp_size_in_bytes < 2 * one
