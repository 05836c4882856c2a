"""Random streams of a training step, seen by the masks of dropout."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.core import Output
from flax_enn.indexers import EnsembleIndexer
from flax_enn.losses import (
  MeanIndex,
  Objective,
  Xent,
)
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from tests.one_step import (
  BATCH,
  INDICES,
  C,
  D,
  N,
  Shifted,
  a_batch,
  gradients,
  start,
  step,
  stepper,
)
from tests.test_laws import mesh_of


class Masked(nn.Module):
  """A base that drops hidden units in training.

  Attributes:
    bare: whether its outputs are 1 where a unit was left and 0 where not.
  """

  bare: bool = False

  @nn.compact
  def __call__(self, x, *, train=False):
    drop = nn.Dropout(0.5, deterministic=not train)
    if self.bare:
      weight = self.param('kernel', nn.initializers.ones, ())
      return drop(jnp.ones((len(x), 1))) / 2 * weight, {}
    h = drop(nn.relu(nn.Dense(32)(x)))
    return nn.Dense(C)(h), {'hidden': h}


class Folded(nn.Module):
  """Folds its index into the stream: a mask for each function."""

  indexer = EnsembleIndexer(N)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    weight = self.param('kernel', nn.initializers.ones, ())
    key = jax.random.fold_in(self.make_rng('dropout'), jnp.argmax(index))
    drop = nn.Dropout(0.5, deterministic=not train)
    return Output(drop(jnp.ones((len(x), 1)), rng=key) / 2 * weight)


def code(outputs):
  """`[N]`: the bits of a mask, one for each example, as a number."""
  bits = outputs.preds[..., 0]
  return bits @ 2.0 ** jnp.arange(bits.shape[-1])


def first_code(outputs, batch, **_):
  del batch
  return code(outputs)[0]


def codes_apart(outputs, batch, **_):
  """By how much the masks of neighbouring indices differ at the least."""
  del batch
  return jnp.abs(jnp.diff(code(outputs))).min()


def codes_at_most_apart(outputs, batch, **_):
  del batch
  return jnp.ptp(code(outputs))


MASKS = {
    'first': Objective(first_code, across=True),
    'least': Objective(codes_apart, across=True),
    'most': Objective(codes_at_most_apart, across=True),
}
LARGE = a_batch(16)  # 2 ** 16 masks


def test_a_base_with_dropout_trains():
  network = Epinet(
      Masked(), ('hidden',), index_dim=D, hiddens=(4,), stop_gradient=False
  )
  state = start(network)
  objectives = {'data': Objective(Xent())}
  after, _ = step(state, BATCH, objectives, network=network)
  moved = jax.tree.map(lambda g: bool(np.any(g)), gradients(state, after))
  assert all(jax.tree.leaves(moved))
  # Evaluation draws nothing, and needs no stream.
  index = INDICES[0]
  one, two = (
      network.apply(after.variables, BATCH.x, index).preds for _ in range(2)
  )
  np.testing.assert_array_equal(one, two)


def test_masks_are_a_function_of_key_and_step():
  network = Deterministic(Masked(bare=True))
  run = jax.jit(stepper(MASKS, network=network, tx=optax.sgd(0.0)))
  state = start(network, LARGE.x)
  seen = []
  for done in range(4):
    assert int(state.step) == done
    state, logs = run(state, LARGE)
    seen.append(float(logs['loss_first']))
  assert len(set(seen)) == 4
  fresh = start(network, LARGE.x)
  for done in (0, 3):
    _, logs = run(fresh.replace(step=jnp.int32(done)), LARGE)
    assert float(logs['loss_first']) == seen[done]
  _, logs = run(fresh.replace(key=jax.random.key(99)), LARGE)
  assert float(logs['loss_first']) not in seen


def test_masks_do_not_depend_on_the_index_unless_it_is_folded_in():
  for network, same in [
      (Deterministic(Masked(bare=True)), True),
      (Folded(), False),
  ]:
    state = start(network, LARGE.x)
    _, logs = step(state, LARGE, MASKS, network=network)
    assert (logs['loss_most'] == 0) == same
    assert (logs['loss_least'] == 0) == same


def test_members_have_masks_of_their_own():
  network = Ensemble(Masked(bare=True), size=N)
  _, logs = step(start(network, LARGE.x), LARGE, MASKS, network=network)
  assert logs['loss_least'] > 0


def test_forwards_of_one_step_share_their_masks_if_they_share_inputs():
  """What differs between the function at two indices is the index alone."""
  network = Deterministic(Masked(bare=True))
  first = MASKS['first']
  objectives = {
      'drawn': first,
      'mean': dataclasses.replace(first, indices=MeanIndex()),
      'shifted': dataclasses.replace(first, inputs=Shifted(0.0)),
  }
  state = start(network, LARGE.x)
  _, logs = step(state, LARGE, objectives, network=network)
  assert logs['loss_drawn'] == logs['loss_mean'] != logs['loss_shifted']


@pytest.mark.parametrize(
    'network', [Deterministic(Masked(bare=True)), Folded()], ids=['base', 'net']
)
def test_masks_are_the_same_on_every_mesh(network):
  state, found = start(network, LARGE.x), set()
  for sizes in [(1, 1, 1), (2, 4, 1), (2, 2, 2)]:
    mesh = mesh_of(sizes)
    batch = sharding.make_global_batch(LARGE, sharding.batch_sharding(mesh))
    placed = jax.device_put(state, sharding.replicated(mesh))
    with sharding.use_mesh(mesh):
      _, logs = step(placed, batch, MASKS, network=network)
    found.add(tuple(float(log) for log in logs.values())[:4])
  assert len(found) == 1
