"""Objectives in a training step: their weights, inputs and indices."""

import dataclasses

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn.indexers import PrngIndexer
from flax_enn.losses import (
  MeanIndex,
  Objective,
  Xent,
)
from tests.one_step import (
  BATCH,
  EVERYTHING,
  INDICES,
  MASKED,
  NETWORK,
  B,
  C,
  D,
  Echo,
  N,
  Shifted,
  across,
  assert_trees_close,
  close,
  first_output,
  gradients,
  reference,
  score,
  start,
  step,
  stepper,
)
from tests.test_laws import PRODUCTS, equations


def test_objectives_are_added_by_their_weights():
  state = start()
  _, logs = step(state, MASKED, EVERYTHING)
  close(
      logs['loss'],
      logs['loss_data'] + 0.3 * logs['loss_spread'] + logs['loss_size'],
  )
  # A penalty is a mean over indices, whatever the number of examples.
  kernels = [
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(state.params)
      if path[-1].key == 'kernel'
  ]
  close(logs['loss_size'], 0.1 * sum(np.sum(np.square(k)) for k in kernels))


@pytest.mark.slow
def test_a_loss_across_indices_sees_them_all():
  state = start()
  objectives = {'spread': Objective(across, across=True)}
  after, logs = step(state, MASKED, objectives)

  def value(params):
    variables = {**state.variables, 'params': params}
    preds = jnp.stack(
        [NETWORK.apply(variables, MASKED.x, z).preds for z in INDICES]
    )
    mean = preds.mean(0)
    spread = sum(jnp.square(p - mean).sum(-1) for p in preds) / N
    return (spread * MASKED.weight * MASKED.mask).sum() / 4

  expected, grads = jax.value_and_grad(value)(state.params)
  close(logs['loss'], expected)
  assert_trees_close(gradients(state, after), grads)


def test_a_scalar_across_indices_is_taken_as_it_is():
  def scalar(outputs, batch, *, variables, **_):
    del outputs, batch
    return sum(jnp.sum(p) for p in jax.tree.leaves(variables['params']))

  state = start()
  _, logs = step(state, BATCH, {'all': Objective(scalar, across=True)})
  close(logs['loss'], sum(np.sum(p) for p in jax.tree.leaves(state.params)))


def test_weight_may_be_a_schedule_of_the_step():
  weight = optax.linear_schedule(0.0, 1.0, 4)
  run = jax.jit(stepper({'data': Objective(Xent(), weight=weight)}))

  def at(state):
    after, logs = run(state, BATCH)
    return gradients(state, after), logs

  state = start()
  whole, logs = at(state.replace(step=jnp.int32(4)))
  close(logs['loss'], logs['loss_data'])
  half, half_logs = at(state.replace(step=jnp.int32(2)))
  close(half_logs['loss'], logs['loss'] / 2)
  close(half_logs['loss_data'], logs['loss_data'])
  assert_trees_close(half, jax.tree.map(lambda g: g / 2, whole))
  none, _ = at(state)
  assert not any(np.any(g) for g in jax.tree.leaves(none))


def test_a_loss_is_asked_about_its_own_inputs():
  state = start()
  objectives = {'fake': Objective(Xent(), inputs=Shifted(1.5))}
  after, logs = step(state, BATCH, objectives)
  shifted = Shifted(1.5)(BATCH, None)
  value, grads = jax.value_and_grad(reference)(state.params, state, shifted)
  close(logs['loss'], value)
  assert_trees_close(gradients(state, after), grads)


def products(objectives):
  """How many products of matrices a step has."""
  jaxpr = jax.make_jaxpr(stepper(objectives))(start(), BATCH)
  return sum(e.primitive.name in PRODUCTS for e in equations(jaxpr.jaxpr))


def test_objectives_of_equal_inputs_share_one_forward():
  smooth = Xent(label_smoothing=0.1)
  one = products({'a': Objective(Xent())})
  assert one > 0
  shared = {'a': Objective(Xent()), 'b': Objective(smooth)}
  assert products(shared) == one
  # Equal by their fields, not because they are one object.
  both = [Objective(x, inputs=Shifted(float('1'))) for x in (Xent(), smooth)]
  assert products(dict(zip('ab', both))) == one
  assert products({**shared, 'c': both[0], 'd': both[1]}) == 2 * one
  other = Objective(smooth, inputs=Shifted(2.0))
  assert products({'a': both[0], 'b': other}) == 2 * one


def distil(outputs, batch, *, index, **_):
  """How far the function at the mean index is from the mean of functions."""
  assert outputs['mean'].preds.shape == (1, len(batch.y), C)
  assert outputs['drawn'].preds.shape == (N, len(batch.y), C)
  assert (len(index['mean']), len(index['drawn'])) == (1, N)
  mean = outputs['drawn'].preds.mean(0)
  return jnp.square(outputs['mean'].preds[0] - mean).sum(-1)


DISTIL = Objective(
    distil, indices={'mean': MeanIndex(), 'drawn': None}, across=True
)


def test_distillation_sees_the_mean_index_beside_the_drawn_ones():
  state = start()
  after, logs = step(state, MASKED, {'distil': DISTIL})

  def value(params):
    def at(index):
      variables = {**state.variables, 'params': params}
      return NETWORK.apply(variables, MASKED.x, index).preds

    mean = sum(at(index) for index in INDICES) / N
    losses = jnp.square(at(jnp.zeros(D)) - mean).sum(-1)
    return (losses * MASKED.weight * MASKED.mask).sum() / 4

  expected, grads = jax.value_and_grad(value)(state.params)
  close(logs['loss'], expected)
  assert_trees_close(gradients(state, after), grads)


def test_an_objective_at_the_mean_index_looks_at_it_alone():
  state = start()
  objectives = {'mean': Objective(Xent(), indices=MeanIndex())}
  _, logs = step(state, MASKED, objectives)
  logits = NETWORK.apply(state.variables, MASKED.x, jnp.zeros(D)).preds
  scores = [score(logits[b], MASKED.y[b]) for b in range(B)]
  close(logs['loss'], (scores * MASKED.weight * MASKED.mask).sum() / 4)


def test_objectives_of_equal_inputs_and_indices_share_one_forward():
  data = {'data': Objective(Xent())}
  one = products(data)
  mean = Objective(Xent(label_smoothing=0.1), indices=MeanIndex())
  at_mean = products({'mean': mean})
  both = {**data, 'distil': DISTIL}
  assert products(both) == products({**data, 'mean': mean}) == one + at_mean
  assert products({**both, 'mean': mean}) == one + at_mean
  # Other inputs are other forwards, at whichever indices.
  elsewhere = dataclasses.replace(DISTIL, inputs=Shifted(1.0))
  assert products({**both, 'else': elsewhere}) == 2 * (one + at_mean)


def test_a_mean_that_does_not_exist_is_refused():
  class Keyed(Echo):
    indexer = PrngIndexer()

    @nn.compact
    def __call__(self, x, index, *, train=False):
      return Echo.__call__(self, x, jax.random.normal(index), train=train)

  objectives = {'mean': Objective(first_output, indices=MeanIndex())}
  with pytest.raises(ValueError, match='indices are the mean of PrngIndexer'):
    step(start(Keyed()), BATCH, objectives, network=Keyed())
