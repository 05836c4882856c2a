"""The training step against a loop over examples and indices."""

import dataclasses
import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import sharding
from flax_enn.checkpoints.fingerprint import fingerprints
from flax_enn.core import BLANK, Batch, Output
from flax_enn.indexers import EnsembleIndexer, GaussianIndexer, PrngIndexer
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.losses import (
    L2,
    Bootstrap,
    L2Penalty,
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
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from tests import slow
from tests.test_laws import PRODUCTS, equations, mesh_of

B, C, D, N = 6, 3, 2, 4
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
INDICES = np.asarray(jax.random.normal(jax.random.key(7), (N, D)))


class Given(GaussianIndexer):
  """Draws the same indices whatever the key, for a reference to know them."""

  def sample(self, key, n):
    del key
    return jnp.asarray(INDICES[:n])


class GivenEpinet(Epinet):
  """An epinet at indices that are known."""

  @property
  def indexer(self):
    return Given(self.index_dim)


NETWORK = WithPrior(
    GivenEpinet(
        base=MLP((5,), C),
        features=('inputs', 'hidden_0'),
        index_dim=D,
        hiddens=(4,),
    ),
    {'x': MLPPrior((3,))},
)


def a_batch(size=B, seed=0):
  rng = np.random.default_rng(seed)
  return Batch(
      x=rng.normal(size=(size, 2)).astype(np.float32),
      y=rng.integers(C, size=size),
      weight=rng.uniform(0.5, 2, size).astype(np.float32),
      id=rng.integers(1000, size=size).astype(np.int32),
      mask=np.ones(size, np.float32),
  )


BATCH = a_batch()
MASKED = BATCH.replace(mask=np.float32([1, 0, 1, 1, 0, 1]))
SGD = optax.sgd(1.0)  # one step leads down the gradient


def start(network=NETWORK, x=BATCH.x, tx=SGD):
  return nn.unbox(init_state(network, tx, 0, x))


def stepper(objectives, network=NETWORK, tx=SGD, num_indices=N, **options):
  options = {'likelihood': Categorical(C), 'num_examples': 60, **options}
  return functools.partial(
      train_step,
      network=network,
      objectives=objectives,
      tx=tx,
      num_indices=num_indices,
      **options,
  )


def step(state, batch, objectives, **options):
  return jax.jit(stepper(objectives, **options))(state, batch)


def gradients(before, after):
  return jax.tree.map(jnp.subtract, before.params, after.params)


def assert_trees_close(found, expected):
  jax.tree.map(close, found, expected)


def score(logits, y):
  """-log softmax(logits)_y of one example, by its definition."""
  return jnp.log(jnp.exp(logits).sum()) - logits[y]


def reference(params, state, batch, noise=()):
  """The mean over indices and unmasked examples, one by one."""
  total, examples = 0.0, 0
  for index in INDICES:
    variables = {**state.variables, 'params': params}
    logits = NETWORK.apply(variables, batch.x, index).preds
    seen = batch
    for n in noise:
      seen = n(seen, index, NETWORK.indexer)
    for b in range(len(batch.y)):
      if batch.mask[b]:
        total += seen.weight[b] * score(logits[b], batch.y[b])
        examples += 1
  return total / examples


NOISES = {
    'plain': (),
    'noise': (Bootstrap(seed=3),),
    'two noises': (Bootstrap('bernoulli', seed=0), Bootstrap(seed=1)),
}


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


def across(outputs, batch, *, index, **_):
  """Disagreement of the indices, `[B]`."""
  assert outputs.preds.shape[:2] == (N, len(batch.y))
  assert len(index) == N
  return outputs.preds.var(axis=0).sum(-1)


EVERYTHING = {
    'data': Objective(Xent(), noise=NOISES['noise']),
    'spread': Objective(across, weight=0.3, across=True),
    'size': Objective(L2Penalty(0.1)),
}


def test_padding_changes_nothing():
  padding = a_batch(3, seed=1)
  padding = padding.replace(mask=np.zeros(3, np.float32), weight=9 * np.ones(3))
  padded = jax.tree.map(lambda *a: np.concatenate(a), BATCH, padding)
  state = start()
  after, logs = step(state, BATCH, EVERYTHING)
  padded_after, padded_logs = step(state, padded, EVERYTHING)
  assert_trees_close(padded_logs, logs)
  assert_trees_close(gradients(state, padded_after), gradients(state, after))


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


@dataclasses.dataclass(frozen=True)
class Shifted:
  """Inputs beside the data."""

  by: float

  def __call__(self, batch, key):
    del key
    return batch.replace(x=batch.x + self.by, weight=2 * batch.weight)


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


class Echo(nn.Module):
  """Its outputs are the index, plus a weight that starts at 0."""

  indexer = GaussianIndexer(1)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    del train
    weight = self.param('kernel', nn.initializers.zeros, (1,))
    return Output(jnp.broadcast_to(index + weight, (len(x), 1)))


def first_output(outputs, batch, **_):
  del batch
  return outputs.preds[:, 0]


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


# Random streams.


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
