"""Small networks on a mesh, and where their states lie."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn import sharding
from flax_enn.core import Batch
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.layers import fan_in_init
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training.state import abstract_state, create_train_state
from tests import tiny


def mesh_of(data=1, index=1, fsdp=1):
  return sharding.create_mesh({'data': data, 'index': index, 'fsdp': fsdp})


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


def ensemble(size):
  """One with a prior for each member."""
  return WithPrior(Ensemble(Wide(), size), {'members': EnsemblePrior(Wide())})


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


# Rules.


def rules_of(**changes):
  return sharding.create_rules({**sharding.DEFAULT_RULES, **changes})
