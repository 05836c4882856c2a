"""A batch in microbatches is a step as the whole batch is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.losses import (
  Bootstrap,
  L2Penalty,
  Objective,
  Xent,
)
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from tests.one_step import (
  BATCH,
  B,
  C,
  assert_trees_close,
  gradients,
  start,
  step,
  stepper,
)


@pytest.mark.parametrize(
    'parts, masked', [(2, ()), (2, (1, 3, 5)), (6, (1, 4))]
)
def test_accumulated_parts_are_the_whole_batch(parts, masked):
  mask = ~np.isin(np.arange(B), masked)
  batch = BATCH.replace(mask=mask.astype(np.float32))
  objectives = {
      'data': Objective(Xent(), noise=(Bootstrap(seed=4),)),
      'size': Objective(L2Penalty(0.1), weight=0.5),
  }
  state = start()
  whole, logs = step(state, batch, objectives)
  found, summed = jax.jit(
      stepper(objectives, accumulation=parts)
  )(state, batch)
  assert_trees_close(found.params, whole.params)
  assert_trees_close(summed, logs)


def test_accumulation_goes_through_statistics_part_by_part():
  network = Deterministic(ConvNet(classes=C, channels=(2,), hidden=3))
  x = np.random.default_rng(0).normal(size=(B, 4, 4, 1)).astype(np.float32)
  batch = BATCH.replace(x=x)
  objectives = {'data': Objective(Xent())}
  state = start(network, x)
  found, _ = jax.jit(
      stepper(objectives, network, accumulation=3)
  )(state, batch)
  collections, sums = state.collections, None
  for i in range(3):
    part = jax.tree.map(lambda leaf, i=i: leaf[i::3], batch)
    after, _ = step(
        state.replace(collections=collections), part, objectives,
        network=network,
    )  # fmt: skip
    collections = after.collections
    gradient = gradients(state, after)
    sums = gradient if sums is None else jax.tree.map(jnp.add, sums, gradient)
  assert_trees_close(found.collections, collections)
  mean = jax.tree.map(lambda leaf: leaf / 3, sums)
  assert_trees_close(gradients(state, found), mean)


def temporaries(network, x, size, parts):
  """The compiled step on so many examples, and the bytes that it needs."""
  state = jax.eval_shape(lambda: start(network, x))
  batch = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype),
      BATCH.replace(x=x),
  )
  run = stepper({'data': Objective(Xent())}, network, accumulation=parts)
  compiled = jax.jit(run).lower(state, batch).compile()
  return compiled, compiled.memory_analysis().temp_size_in_bytes


def test_accumulation_saves_memory():
  network = Deterministic(MLP(hiddens=(64, 64), classes=C))
  x = np.zeros((1, 32), np.float32)
  _, whole = temporaries(network, x, 4096, 1)
  _, parts = temporaries(network, x, 4096, 8)
  assert parts < 0.5 * whole


def test_convolutions_on_cpus_save_memory_without_a_loop():
  network = Deterministic(ConvNet(classes=C, channels=(8,), hidden=8))
  x = np.zeros((1, 8, 8, 1), np.float32)
  _, whole = temporaries(network, x, 512, 1)
  compiled, parts = temporaries(network, x, 512, 4)
  # Loops, such as those of random numbers, have no convolution in them.
  bodies = re.findall(r' while\(.*body=%?([\w.-]+)', compiled.as_text())
  for body in bodies:
    (text,) = re.findall(
        rf'^%?{re.escape(body)} .*?^}}', compiled.as_text(), re.M | re.S
    )
    assert 'convolution(' not in text
  assert 'convolution(' in compiled.as_text()
  assert parts < 0.5 * whole


def test_a_microbatch_that_is_not_finite_is_found():
  network = Deterministic(ConvNet(classes=C, channels=(2,), hidden=3))
  x = np.zeros((B, 4, 4, 1), np.float32)
  x[0] = np.inf
  batch = BATCH.replace(x=x)
  run = stepper({'data': Objective(Xent())}, network, accumulation=3)
  after, logs = jax.jit(run)(start(network, x), batch)
  assert int(after.first_nonfinite_step) == 1
  assert not np.isfinite(logs['loss'])
