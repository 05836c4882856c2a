"""The training step against a loop over examples and indices."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn.checkpoints.fingerprint import fingerprints
from flax_enn.core import BLANK, Batch, Output
from flax_enn.indexers import GaussianIndexer
from flax_enn.likelihoods import Gaussian
from flax_enn.losses import (
  L2,
  MeanIndex,
  Nll,
  Objective,
  Xent,
)
from flax_enn.networks import deterministic
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from tests import slow
from tests.one_step import (
  BATCH,
  EVERYTHING,
  INDICES,
  MASKED,
  NETWORK,
  NOISES,
  B,
  C,
  Echo,
  N,
  Shifted,
  a_batch,
  assert_trees_close,
  close,
  first_output,
  gradients,
  reference,
  start,
  step,
  stepper,
)


@pytest.mark.parametrize(
    'noise, batch',
    [
        slow('plain', MASKED),
        slow('noise', BATCH),
        ('two noises', MASKED),
    ],
    ids=['plain-masked', 'noise-whole', 'two noises-masked'],
)
def test_step_goes_down_the_gradient_of_a_loop(noise, batch):
  objectives = {'data': Objective(Xent(), noise=NOISES[noise])}
  state = start()
  after, logs = step(state, batch, objectives)
  value, grads = jax.jit(jax.value_and_grad(
      functools.partial(reference, batch=batch, noise=NOISES[noise])
  ))(state.params, state)
  close(logs['loss'], value)
  close(logs['loss_data'], value)
  assert_trees_close(gradients(state, after), grads)
  squares = sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads))
  close(logs['grad_norm'], np.sqrt(squares))
  assert int(after.step) == 1
  assert_trees_close(after.collections, state.collections)


def test_mean_is_over_unmasked_examples_and_not_over_their_weights():
  weight = np.float32([10, 1, 2, 3, 1, 4])
  batch = MASKED.replace(weight=weight)

  def ones(outputs, batch, **_):
    del batch
    return jnp.ones(len(outputs.preds))

  _, logs = step(start(), batch, {'data': Objective(ones)})
  close(logs['loss'], (10 + 2 + 3 + 4) / 4)


def test_padding_changes_nothing():
  padding = a_batch(3, seed=1)
  padding = padding.replace(mask=np.zeros(3, np.float32), weight=9 * np.ones(3))
  padded = jax.tree.map(lambda *a: np.concatenate(a), BATCH, padding)
  state = start()
  after, logs = step(state, BATCH, EVERYTHING)
  padded_after, padded_logs = step(state, padded, EVERYTHING)
  assert_trees_close(padded_logs, logs)
  assert_trees_close(gradients(state, padded_after), gradients(state, after))


def test_losses_are_told_of_the_run():
  """Steps done, the examples to divide a KL term by, and the likelihood."""
  likelihood = Gaussian(2, scale=0.5)

  def told(outputs, batch, *, context, **_):
    del outputs, batch
    assert context.likelihood is likelihood
    return context.step + 1 / jnp.float32(context.num_examples)

  options = {'likelihood': likelihood, 'num_examples': 8}
  objectives = {'told': Objective(told)}
  state = start().replace(step=jnp.int32(3))
  _, logs = step(state, BATCH, objectives, **options)
  close(logs['loss'], 3 + 1 / 8)


def test_nll_trains_whatever_the_likelihood_is():
  state = start()
  found, logs = step(state, MASKED, {'data': Objective(Nll())})
  expected, expected_logs = step(state, MASKED, {'data': Objective(Xent())})
  close(logs['loss'], expected_logs['loss'])
  assert_trees_close(gradients(state, found), gradients(state, expected))
  # Two entries of y by their means, and one entry by mean and log-variance.
  for likelihood, dim in [(Gaussian(C), C), (Gaussian(1, scale=None), 1)]:
    network = Deterministic(MLP((5,), likelihood.outputs))
    batch = MASKED.replace(y=np.ones((B, dim), np.float32))
    options = {'network': network, 'likelihood': likelihood}
    state = start(network)
    after, logs = step(state, batch, {'data': Objective(Nll())}, **options)
    preds = network.apply(state.variables, batch.x, jnp.ones(1)).preds
    nll = -likelihood.log_prob(preds, batch.y)
    close(logs['loss'], (nll * batch.weight * batch.mask).sum() / 4)
    assert any(np.any(g) for g in jax.tree.leaves(gradients(state, after)))


def with_norms():
  network, x, _ = deterministic.example()
  y = np.arange(len(x), dtype=np.int32) % 3
  ones = np.ones(len(x), np.float32)
  return network, Batch(np.asarray(x), y, ones, y, ones)


@pytest.mark.parametrize(
    'names', ['df', *map(slow, ['fd', 'f', 'm', 'dm']), 'fm']
)
def test_statistics_are_those_of_the_data(names):
  """In whatever order the objectives come, and none without data."""
  network, batch = with_norms()
  objectives = {
      'd': Objective(Xent()),
      'f': Objective(Xent(), inputs=Shifted(3.0)),
      'm': Objective(Xent(), indices=MeanIndex()),  # of the data too
  }
  state = start(network, batch.x)
  after, _ = step(
      state, batch, {n: objectives[n] for n in names}, network=network
  )
  expected, of_data = state.collections, names != 'f'
  if of_data:
    index = network.indexer.sample(jax.random.key(0), 1)[0]
    _, expected = network.apply(
        state.variables, batch.x, index, train=True, mutable=['batch_stats']
    )
  assert_trees_close(after.collections['batch_stats'], expected['batch_stats'])
  moved = after.collections['batch_stats']['base']['norm_0']['mean']
  assert np.any(moved) == of_data


class IndexedNorm(nn.Module):
  """Batch statistics that depend on the index, which no network may have."""

  indexer = GaussianIndexer(C)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    h = nn.Dense(C)(x) * index
    return Output(nn.BatchNorm(use_running_average=not train)(h))


def test_statistics_that_depend_on_the_index_are_refused():
  network = IndexedNorm()
  with pytest.raises(ValueError, match='out_axes'):
    step(start(network), BATCH, {'d': Objective(Xent())}, network=network)


def test_indices_are_a_function_of_key_and_step():
  """New ones at each step, the same for a run that was resumed."""
  batch = BATCH.replace(weight=np.ones(B, np.float32))
  tx = optax.sgd(0.0)
  objectives = {'echo': Objective(first_output)}
  run = jax.jit(stepper(objectives, network=Echo(), tx=tx))
  state, seen = start(Echo(), tx=tx), []
  for _ in range(4):
    state, logs = run(state, batch)
    seen.append(float(logs['loss']))
  assert len(set(seen)) == 4
  fresh = start(Echo(), tx=tx)
  for done in (0, 3):
    _, logs = run(fresh.replace(step=jnp.int32(done)), batch)
    assert float(logs['loss']) == seen[done]
  _, logs = run(fresh.replace(key=jax.random.key(99)), batch)
  assert float(logs['loss']) not in seen
  # The key itself stays what it is.
  np.testing.assert_array_equal(
      jax.random.key_data(state.key), jax.random.key_data(fresh.key)
  )


def test_inputs_get_a_new_key_each_step():
  def random_labels(batch, key):
    return batch.replace(y=jnp.full(B, jax.random.normal(key)))

  def label(outputs, batch, **_):
    del outputs
    return batch.y

  batch = BATCH.replace(weight=np.ones(B, np.float32))
  objectives = {'fake': Objective(label, inputs=random_labels)}
  run = jax.jit(stepper(objectives, network=Echo()))
  state, seen = start(Echo()), set()
  for _ in range(3):
    state, logs = run(state, batch)
    seen.add(float(logs['loss']))
  assert len(seen) == 3


def root(outputs, batch, *, variables, **_):
  """Finite at 0, where its gradient is not."""
  del batch
  weight = variables['params']['kernel'][0]
  return outputs.preds[:, 0] * 0 + jnp.sqrt(weight)


BAD = BATCH.replace(weight=np.full(B, np.nan, np.float32))


@pytest.mark.parametrize(
    ('loss', 'rate', 'batches', 'expected'),
    [
        (first_output, 0.1, [BATCH] * 3, [-1, -1, -1]),
        (first_output, 0.1, [BAD, BATCH, BATCH], [1, 1, 1]),
        (first_output, 0.1, [BATCH, BATCH, BAD, BAD], [-1, -1, 3, 3]),
        (root, 0.1, [BATCH] * 2, [1, 1]),
        # Only the update overflows.
        (first_output, 3e38, [BATCH] * 2, [1, 1]),
    ],
    ids=['good', 'at once', 'later', 'gradient', 'update'],
)
def test_the_first_step_that_is_not_finite_is_kept(
    loss, rate, batches, expected
):
  tx = optax.chain(optax.scale(10.0), optax.sgd(rate))
  run = jax.jit(stepper({'x': Objective(loss)}, network=Echo(), tx=tx))
  state, found = start(Echo(), tx=tx), []
  for batch in batches:
    state, _ = run(state, batch)
    found.append(int(state.first_nonfinite_step))
  assert found == expected


def test_regression_is_the_loops_too():
  """By another loss, whose targets are `[B, C]`."""
  y = np.asarray(jax.random.normal(jax.random.key(8), (B, C)))
  batch = MASKED.replace(y=y)
  state = start()
  _, logs = step(state, batch, {'data': Objective(L2())})
  total = 0.0
  for index in INDICES:
    preds = NETWORK.apply(state.variables, batch.x, index).preds
    losses = np.square(preds - y).mean(-1)
    total += (losses * batch.weight * batch.mask).sum() / 4
  close(logs['loss'], total / N)


def test_a_blank_row_changes_nothing():
  """Not a bit, whatever is in the other rows."""
  network = Ensemble(ConvNet(classes=C, channels=(2,), hidden=3), 2)
  x = np.ones((B, 4, 4, 1), np.float32)
  state = start(network, x, optax.adam(0.1))
  step = jax.jit(
      stepper({'data': Objective(Xent())}, network, optax.adam(0.1), 2)
  )
  state, _ = step(state, BATCH.replace(x=x))
  ids = np.where(np.arange(B) == 3, BLANK, BATCH.id).astype(np.int32)
  for values in (x, x * np.nan):
    kept, _ = step(state, BATCH.replace(x=values, id=ids))
    assert fingerprints(kept) == fingerprints(state)
  changed, _ = step(state, BATCH.replace(x=x))
  assert int(changed.step) == int(state.step) + 1
  assert fingerprints(changed.params) != fingerprints(state.params)
