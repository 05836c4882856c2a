"""The training step against a loop over examples and indices."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn.core import Batch, Output
from flax_enn.indexers import GaussianIndexer
from flax_enn.losses import L2, Bootstrap, L2Penalty, Objective, Xent
from flax_enn.networks import deterministic
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from tests import tiny
from tests.test_laws import equations

B, C, D, N = 6, 3, 2, 4
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
INDICES = np.asarray(jax.random.normal(jax.random.key(7), (N, D)))


@dataclasses.dataclass(frozen=True)
class Given:
  """Draws the same indices whatever the key, for a reference to know them."""

  def sample(self, key, n):
    del key
    return jnp.asarray(INDICES[:n])


class GivenEpinet(Epinet):
  """An epinet at indices that are known."""

  @property
  def indexer(self):
    return Given()


NETWORK = GivenEpinet(
    base=MLP((5,), C),
    classes=C,
    features=('inputs', 'hidden_0'),
    index_dim=D,
    hiddens=(4,),
    priors={'x': MLPPrior((3,), C, size=D)},
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


def stepper(objectives, network=NETWORK, tx=SGD, num_indices=N):
  return functools.partial(
      train_step,
      network=network,
      objectives=objectives,
      tx=tx,
      num_indices=num_indices,
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
      seen = n(seen, index)
    for b in range(len(batch.y)):
      if batch.mask[b]:
        total += seen.weight[b] * score(logits[b], batch.y[b])
        examples += 1
  return total / examples


NOISES = {
    'plain': (),
    'noise': (Bootstrap(seed=3, indexer=GaussianIndexer(D)),),
    'two noises': tuple(
        Bootstrap(distribution, seed=seed, indexer=GaussianIndexer(D))
        for seed, distribution in enumerate(['bernoulli', 'exponential'])
    ),
}


@pytest.mark.parametrize('batch', [BATCH, MASKED], ids=['whole', 'masked'])
@pytest.mark.parametrize('noise', NOISES)
def test_step_goes_down_the_gradient_of_a_loop(noise, batch):
  objectives = {'data': Objective(Xent(), noise=NOISES[noise])}
  state = start()
  after, logs = step(state, batch, objectives)
  value, grads = jax.value_and_grad(reference)(
      state.params, state, batch, NOISES[noise]
  )
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

  def ones(output, batch, index, variables):
    del batch, index, variables
    return jnp.ones(len(output.preds))

  _, logs = step(start(), batch, {'data': Objective(ones)})
  close(logs['loss'], (10 + 2 + 3 + 4) / 4)


def across(output, batch, index, variables):
  """Disagreement of the indices, `[B]`."""
  del index, variables
  assert output.preds.shape[:2] == (N, len(batch.y))
  return output.preds.var(axis=0).sum(-1)


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
  def scalar(output, batch, index, variables):
    del output, batch, index
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
  kinds = [e.primitive.name for e in equations(jaxpr.jaxpr)]
  return kinds.count('dot_general')


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


def with_norms():
  network, x = deterministic.example()
  y = np.arange(len(x), dtype=np.int32) % 3
  ones = np.ones(len(x), np.float32)
  return network, Batch(np.asarray(x), y, ones, y, ones)


@pytest.mark.parametrize('names', ['df', 'fd', 'd', 'f'])
def test_statistics_are_those_of_the_data(names):
  """In whatever order the objectives come, and none without data."""
  network, batch = with_norms()
  objectives = {
      'd': Objective(Xent()),
      'f': Objective(Xent(), inputs=Shifted(3.0)),
  }
  state = start(network, batch.x)
  after, _ = step(
      state, batch, {n: objectives[n] for n in names}, network=network
  )
  expected = state.collections
  if 'd' in names:
    index = network.indexer.sample(jax.random.key(0), 1)[0]
    _, expected = network.apply(
        state.variables, batch.x, index, train=True, mutable=['batch_stats']
    )
  assert_trees_close(after.collections['batch_stats'], expected['batch_stats'])
  moved = after.collections['batch_stats']['base']['norm_0']['mean']
  assert np.any(moved) == ('d' in names)


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


def first_output(output, batch, index, variables):
  del batch, index, variables
  return output.preds[:, 0]


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

  def label(output, batch, index, variables):
    del output, index, variables
    return batch.y

  batch = BATCH.replace(weight=np.ones(B, np.float32))
  objectives = {'fake': Objective(label, inputs=random_labels)}
  run = jax.jit(stepper(objectives, network=Echo()))
  state, seen = start(Echo()), set()
  for _ in range(3):
    state, logs = run(state, batch)
    seen.add(float(logs['loss']))
  assert len(seen) == 3


def root(output, batch, index, variables):
  """Finite at 0, where its gradient is not."""
  del batch, index
  weight = variables['params']['kernel'][0]
  return output.preds[:, 0] * 0 + jnp.sqrt(weight)


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
    found.append(int(state.nonfinite))
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


@pytest.mark.parametrize('parts', [2, 3, 6])
def test_accumulated_parts_are_the_whole_batch(parts):
  bootstrap = Bootstrap(seed=4).bind(GaussianIndexer(D))
  objectives = {
      'data': Objective(Xent(), noise=(bootstrap,)),
      'size': Objective(L2Penalty(0.1), weight=0.5),
  }
  state = start()
  whole, logs = step(state, BATCH, objectives)
  found, summed = jax.jit(
      functools.partial(stepper(objectives), accumulation=parts)
  )(state, BATCH)
  assert_trees_close(found.params, whole.params)
  assert_trees_close(summed, logs)


def test_accumulation_goes_through_statistics_part_by_part():
  network = Deterministic(ConvNet(classes=C, channels=(2,), hidden=3))
  x = np.random.default_rng(0).normal(size=(B, 4, 4, 1)).astype(np.float32)
  batch = BATCH.replace(x=x)
  objectives = {'data': Objective(Xent())}
  state = start(network, x)
  found, _ = jax.jit(
      functools.partial(stepper(objectives, network), accumulation=3)
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


def test_accumulation_saves_memory():
  network = Deterministic(MLP(hiddens=(64, 64), classes=C))
  x = jax.ShapeDtypeStruct((4096, 32), jnp.float32)
  batch = tiny.abstract_batch(x)
  state = jax.eval_shape(lambda: start(network, np.zeros((1, 32), np.float32)))
  used = {}
  for parts in (1, 8):
    run = functools.partial(
        stepper({'data': Objective(Xent())}, network), accumulation=parts
    )
    compiled = jax.jit(run).lower(state, batch).compile()
    used[parts] = compiled.memory_analysis().temp_size_in_bytes
  assert used[8] < 0.5 * used[1]
