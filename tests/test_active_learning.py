"""Priorities against slow references and enn, and the batcher on any mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from flax_enn import sharding
from flax_enn.active_learning import PRIORITIES, PrioritizedBatcher, log_probs
from flax_enn.core import Batch
from flax_enn.data import Loader
from flax_enn.data.two_moons import TwoMoons
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.model import Model
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet
from tests import processes, slow, tiny
from tests.golden import cases, convert
from tests.golden.test_golden_losses import keyed

N, B, C = 5, 7, 3
RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(C), size=(N, B))
LABELS = RNG.integers(0, C, B)
WEIGHTS = RNG.dirichlet(np.ones(N))


def score(name, probs=PROBS, weights=None, **options):
  with np.errstate(divide='ignore'):
    logs = jnp.asarray(np.log(probs))
    given = None if weights is None else np.log(weights)
  options = {'labels': LABELS, 'key': jax.random.key(0), **options}
  return PRIORITIES[name](logs, log_weights=given, **options)


def entropy(p):
  return -scipy.special.xlogy(p, p).sum(-1)


def mean(values, weights=WEIGHTS):
  return np.einsum('n,n...->...', weights, values)


def std(values):
  return np.sqrt(mean(np.square(values - mean(values))))


OF_LABEL = PROBS[:, np.arange(B), LABELS]
AVERAGE = mean(PROBS)
TOP = np.sort(AVERAGE, -1)
VALUES = np.array([1.0, -2.0, 0.5])
EXPECTED = {
    'variance': np.square(std(PROBS)).sum(-1),
    'nll': -np.log(mean(OF_LABEL)),
    'joint_nll': -np.log(mean(OF_LABEL**10)),
    'entropy': entropy(AVERAGE),
    'margin': TOP[:, -2] - TOP[:, -1],
    'bald': entropy(AVERAGE) - mean(entropy(PROBS)),
    'var_ratios': 1 - TOP[:, -1],
    'ucb': mean(PROBS[..., 0]) + std(PROBS[..., 0]),
    'scaled_mean': mean(PROBS[..., 0]),
    'scaled_std': std(PROBS[..., 0]),
}


def test_every_priority_has_a_reference():
  assert EXPECTED.keys() == PRIORITIES.keys() - {'uniform'}


@pytest.mark.parametrize('name', EXPECTED)
def test_priorities_of_weighted_indices(name):
  found = score(name, weights=WEIGHTS)
  np.testing.assert_allclose(found, EXPECTED[name], rtol=1e-4, atol=1e-6)


def test_priorities_of_values():
  ucb = score('ucb', weights=WEIGHTS, class_values=VALUES, factor=2.0)
  value = PROBS @ VALUES
  np.testing.assert_allclose(ucb, mean(value) + 2 * std(value), rtol=1e-4)
  # The means of a regression are values themselves.
  means = RNG.normal(size=(N, B))
  for name, expected in {
      'ucb': means.mean(0) + means.std(0),
      'scaled_mean': means.mean(0),
      'scaled_std': means.std(0),
      'variance': means.var(0),
  }.items():
    found = PRIORITIES[name](jnp.asarray(means))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('name', PRIORITIES)
def test_a_probability_that_underflows_is_not_nan(name):
  """enn takes its logarithm: 0 log 0 is NaN there in entropy and BALD."""
  probs = PROBS.copy()
  probs[:, 0] = np.eye(C)[0]
  probs[0, 1] = np.eye(C)[1]
  labels = np.zeros(B, int)
  assert np.isfinite(score(name, probs, labels=labels)).all()
  if name in ('entropy', 'bald', 'variance', 'scaled_std', 'nll'):
    np.testing.assert_allclose(
        score(name, probs, labels=labels)[0], 0, atol=1e-6
    )


def test_joint_nll_is_not_tau_times_the_mean_log_loss():
  """enn averages log-likelihoods, where one function that is wrong is all."""
  probs = np.full((2, 1, 2), 0.5)
  probs[0] = [[1.0, 0.0]]
  probs[1] = [[1e-9, 1 - 1e-9]]
  found = score('joint_nll', probs, labels=np.zeros(1, int))
  np.testing.assert_allclose(found, np.log(2), rtol=1e-5)
  enn = -10 * np.log(probs[:, 0, 0]).mean()
  assert enn > 100


GOLDEN = {
    **{name: (name, {}) for name in PRIORITIES if name != 'joint_nll'},
    'ucb_factor2_values': ('ucb', {'factor': 2.0}),
    'scaled_mean_values': ('scaled_mean', {}),
    'scaled_std_values': ('scaled_std', {}),
}


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_priorities(name):
  """All but `joint_nll`, which see above."""
  case = cases.load_case('active_learning/priorities')
  priority, options = GOLDEN[name]
  if name.endswith('_values'):
    options = {**options, 'class_values': case['in::class_values']}
  logs = log_probs(Categorical(5), jnp.asarray(case['in::logits']))
  found = PRIORITIES[priority](
      logs,
      labels=case['in::labels'][:, 0],
      key=keyed(case['in::key']),
      **options,
  )
  cases.assert_close(found, case[f'ret::{name}'])


def test_golden_joint_nll():
  """enn's is tau times the mean log-loss over indices."""
  case = cases.load_case('active_learning/priorities')
  logs = log_probs(Categorical(5), jnp.asarray(case['in::logits']))
  labels = case['in::labels'][:, 0]
  of_label = logs[:, np.arange(len(labels)), labels]
  cases.assert_close(-10 * of_label.mean(0), case['ret::joint_nll'])
  found = PRIORITIES['joint_nll'](logs, labels=labels)
  assert (found <= case['ret::joint_nll']).all()  # by Jensen's inequality


QUICK = ('bald', 'nll', 'ucb')


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK))
        for name in sorted(PRIORITIES.keys() - {'uniform', 'joint_nll'})
    ],
)
def test_golden_batcher(name):
  """enn's comes in the order of growing priority.

  Not `uniform`, which draws by the id of an example here, and `joint_nll`.
  """
  case = cases.load_case('active_learning/prioritized_batcher')
  ours = convert.network_of_loss(case)
  n = case.kwargs['num_enn_samples']
  key = jax.random.wrap_key_data(
      jnp.array([0, 66], jnp.uint32), impl='threefry2x32'
  )
  draw = jax.vmap(ours.network.indexer.draw)
  ids, y = case['in::data_index'][:, 0], case['in::y'][:, 0]
  ones = np.ones(len(y), np.float32)
  x = np.float32(case['in::x'])
  batch = Batch(x, y, case['in::weights'][:, 0], ids, ones)
  model = Model(
      ours.network, Categorical(4), jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
  )
  batcher = PrioritizedBatcher(
      model, PRIORITIES[name], size=case.kwargs['acquisition_size'],
      mesh=one_device(),
  )
  found, scores = batcher(
      ours.variables, draw(jax.random.split(key, n)), [batch],
      keyed(case['in::key']),
  )
  assert (np.diff(scores) <= 0).all()
  np.testing.assert_array_equal(found.id[::-1], case[f'ret::{name}'][:, 0])


def one_device():
  return sharding.create_mesh({'data': 1}, jax.devices()[:1])


NETWORK = Epinet(
    base=MLP((6,), 2), features=('inputs',), index_dim=2, hiddens=(4,)
)
DATA = TwoMoons(n_train=36)
MODEL = Model(NETWORK, Categorical(2), DATA.input_spec)


@functools.cache
def drawn():
  indices = NETWORK.indexer.sample(jax.random.key(1), 4)
  rngs = {name: jax.random.key(0) for name in ('params', 'frozen')}
  return NETWORK.init(rngs, np.zeros((1, 2), np.float32), indices[0]), indices


def pool(batch_size):
  return Loader().eval_batches(
      DATA, 'train', DATA.spec, batch_size=batch_size
  )


def take(mesh, batch_size, size=9, name='bald'):
  batcher = PrioritizedBatcher(MODEL, PRIORITIES[name], size=size, mesh=mesh)
  return batcher(*drawn(), pool(batch_size), jax.random.key(2))


@pytest.mark.parametrize(
    'sizes',
    [
        slow({'data': 8}),
        {'data': 2, 'index': 2, 'fsdp': 2},
    ],
    ids=['batch', 'all axes'],
)
def test_the_choice_does_not_depend_on_the_devices(sizes):
  """Nor on the batches that the pool is read in; the last has padding."""
  expected, priorities = take(one_device(), 36)
  found, scores = take(sharding.create_mesh(sizes), 16)
  np.testing.assert_array_equal(found.id, expected.id)
  np.testing.assert_array_equal(found.x, expected.x)
  np.testing.assert_allclose(scores, priorities, rtol=1e-5)
  # They are the best of all.
  variables, indices = drawn()
  (whole,) = pool(36)
  outputs = jnp.stack(
      [NETWORK.apply(variables, whole.x, z).preds for z in indices]
  )
  every = PRIORITIES['bald'](jax.nn.log_softmax(outputs))
  best = np.argsort(-np.asarray(every), kind='stable')[:9]
  np.testing.assert_array_equal(found.id, whole.id[best])


def test_a_random_choice_does_not_depend_on_the_batches():
  """What is drawn for an example depends on its id and the key alone."""
  expected, priorities = take(one_device(), 36, name='uniform')
  found, scores = take(one_device(), 8, name='uniform')
  np.testing.assert_array_equal(found.id, expected.id)
  np.testing.assert_array_equal(scores, priorities)
  keys = [jax.random.fold_in(jax.random.key(2), i) for i in range(36)]
  numbers = [float(jax.random.uniform(key)) for key in keys]
  np.testing.assert_array_equal(found.id, np.argsort(numbers)[::-1][:9])


@pytest.mark.parametrize('sign', [1, -1])
def test_a_priority_that_is_nan_is_refused(sign):
  """Whatever its sign, by which a sort has it first or last."""

  def priority(log_probs, *, ids, **_):
    nan = jnp.copysign(jnp.nan, sign)
    return jnp.where((ids == 3) | (ids == 20), nan, -1.0 * ids)

  batcher = PrioritizedBatcher(MODEL, priority, size=4, mesh=one_device())
  with pytest.raises(ValueError, match=r'NaN of .* with id \[3, 20\]'):
    batcher(*drawn(), pool(9), jax.random.key(2))


@pytest.mark.parametrize('name', ['nll', 'joint_nll'])
def test_a_label_that_is_no_class_has_no_loss(name):
  """Not that of the last class."""
  found = score(name, labels=np.array([-1, C, *LABELS[2:]]))
  assert np.isnan(found).tolist() == [True, True] + [False] * (B - 2)
  np.testing.assert_array_equal(found[2:], score(name)[2:])


def test_a_pool_that_is_too_small_is_filled_up():
  found, scores = take(one_device(), 36, size=40)
  assert sorted(found.id) == [*[-1] * 4, *range(36)]
  assert found.mask.tolist() == [1.0] * 36 + [0.0] * 4
  assert np.isneginf(scores[36:]).all() and np.isfinite(scores[:36]).all()


def test_what_cannot_be_taken():
  with pytest.raises(ValueError, match='size is 0'):
    PrioritizedBatcher(MODEL, size=0)
  with pytest.raises(ValueError, match='the pool has no batch'):
    PrioritizedBatcher(MODEL)(*drawn(), [], jax.random.key(0))


def test_a_regression_has_values():
  outputs = jnp.arange(12.0).reshape(2, 3, 2)
  found = log_probs(Gaussian(2), outputs)
  np.testing.assert_array_equal(found, outputs.mean(-1))


HOST = '''
import sys
import jax
import numpy as np
from flax_enn import sharding
from flax_enn.active_learning import PRIORITIES, PrioritizedBatcher
from flax_enn.data import Loader
from tests import test_active_learning as t

jax.distributed.initialize(
    'localhost:' + sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
mesh = sharding.create_mesh({'data': -1})
shard, count = sharding.process_shard(sharding.batch_sharding(mesh))
loader = Loader(shard_index=shard, shard_count=count)
pool = loader.eval_batches(t.DATA, 'train', t.DATA.spec, batch_size=16)
batcher = PrioritizedBatcher(t.MODEL, PRIORITIES['bald'], size=9, mesh=mesh)
found, scores = batcher(*t.drawn(), pool, jax.random.key(2))
print('TAKEN', count, found.id.tolist())
'''


@pytest.mark.slow
def test_two_processes_choose_as_one():
  expected, _ = take(one_device(), 36)
  port = str(processes.free_port())
  hosts = [
      tiny.python('-c', HOST, port, str(i), devices=4) for i in range(2)
  ]
  for host in hosts:
    said, _ = host.communicate(timeout=200)
    assert host.returncode == 0, said
    assert f'TAKEN 2 {expected.id.tolist()}' in said
