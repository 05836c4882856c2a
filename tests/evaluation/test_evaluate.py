"""The evaluator, on hand-made batches, against metrics of all at once."""

import collections
import types

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers, metrics, sharding
from flax_enn.core import Batch, Output
from flax_enn.evaluation import Evaluator

B, C, N, TAU = 16, 3, 24, 4
KEY = jax.random.key(7)
CLASSIFY = types.SimpleNamespace(task='classification', noise_std=None)
REGRESS = types.SimpleNamespace(task='regression', noise_std=0.7)


class Net(nn.Module):
  """A linear base, a linear function of the index, and a prior."""

  with_base: bool = True

  @property
  def indexer(self):
    return indexers.GaussianIndexer(2)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    base = nn.Dense(C, name='base')(sharding.constrain(x, 'base_batch'))
    out = base + sharding.constrain(
        nn.Dense(2 * C, name='head')(x).reshape(-1, C, 2) @ index, 'batch'
    )
    prior = jnp.sin(x[:, :C] * index[0])
    return Output(out, prior, {'base': base} if self.with_base else {})


def _examples(size, task):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(size, 5)).astype(np.float32)
  if task is CLASSIFY:
    return x, rng.integers(0, C, size).astype(np.int32)
  return x, rng.normal(size=(size, C)).astype(np.float32)


def _batches(x, y):
  """Batches of B; the last one is filled up with what is in it."""
  for start in range(0, len(x), B):
    rows = slice(start, start + B)
    ones = np.ones(len(x[rows]), np.float32)
    ids = np.arange(start, start + len(ones), dtype=np.int32)
    batch = Batch(x[rows], y[rows], ones, ids, ones)
    batch = jax.tree.map(lambda a: np.resize(a, (B, *a.shape[1:])), batch)
    yield batch.replace(mask=np.float32(np.arange(B) < len(ones)))


def _variables(net):
  return net.init(jax.random.key(1), jnp.zeros((B, 5)), jnp.zeros(2))


def _evaluate(size=40, task=CLASSIFY, net=None, **options):
  net = net or Net()
  evaluator = Evaluator(
      **{'num_indices': N, 'tau': TAU, 'chunk': 7} | options,
      network=net,
      dataset=task,
  )
  return evaluator(_variables(net), _batches(*_examples(size, task)), KEY)


def _all_at_once(size, task):
  """Metrics of base and enn from one [N, B, C] array of the whole split."""
  net, (x, y) = Net(), _examples(size, task)
  indices = net.indexer.sample(KEY, N)
  outputs = [net.apply(_variables(net), x, z) for z in indices]
  preds = {
      'base': outputs[0].extra['base'][None],
      'enn': jnp.stack([o.preds for o in outputs]),
  }
  computed = {}
  for who, values in preds.items():
    if task is CLASSIFY:
      moments = metrics.ClassificationMoments.zeros(size, C, TAU)
      moments, of = moments.update(values, y), metrics.Classification
    else:
      moments = metrics.RegressionMoments.zeros(size, C, TAU)
      moments = moments.update(values, y, task.noise_std)
      of = metrics.Regression
    computed[who] = of.single_from_model_output(
        moments=moments, y=y, mask=jnp.ones(size)
    ).compute()
  return computed, moments


def _close(found, expected, rtol=1e-5):
  assert found.keys() == expected.keys() == {'base', 'enn'}
  for who in expected:
    assert found[who].keys() == expected[who].keys()
    for name, value in expected[who].items():
      np.testing.assert_allclose(
          found[who][name], value, rtol=rtol, err_msg=f'{who} {name}'
      )


@pytest.mark.parametrize('task', [CLASSIFY, REGRESS], ids=['class', 'regress'])
def test_streaming_equals_all_at_once(task):
  """39 examples in batches of 16, 24 indices in chunks of 7."""
  results = _evaluate(39, task)
  expected, moments = _all_at_once(39, task)
  found = {k: dict(v) for k, v in results.metrics.items()}
  for values in (*found.values(), *expected.values()):
    values.pop('joint_nll_sampled', None)  # its draw is one per batch
  _close(found, expected)
  order = np.argsort(-np.asarray(moments.disagreement))[:16]
  np.testing.assert_array_equal(results.examples['id'], order)
  np.testing.assert_allclose(
      results.examples['disagreement'], moments.disagreement[order], rtol=1e-4
  )
  x, y = _examples(39, task)
  np.testing.assert_array_equal(results.examples['x'], x[order])
  np.testing.assert_array_equal(results.examples['y'], y[order])


def test_disagreement_is_counted_for_right_and_wrong():
  results = _evaluate(39)
  _, moments = _all_at_once(39, CLASSIFY)
  right = moments.log_probs.argmax(-1) == _examples(39, CLASSIFY)[1]
  edges = np.log(C) * np.linspace(0, 1, 31) ** 3
  for counts, chosen in zip(results.disagreement, (right, ~right)):
    expected, _ = np.histogram(moments.disagreement[chosen], edges)
    np.testing.assert_array_equal(counts, expected)


@pytest.fixture(scope='module')
def on_one_device():
  return _evaluate(40)


@pytest.mark.parametrize('sizes', [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_results_do_not_depend_on_the_mesh(sizes, on_one_device):
  mesh = sharding.create_mesh(dict(zip(sharding.AXES, sizes)))
  found, expected = _evaluate(40, mesh=mesh, chunk=5), on_one_device
  _close(found.metrics, expected.metrics)
  np.testing.assert_array_equal(found.examples['id'], expected.examples['id'])


def test_a_network_without_a_base_has_one_row():
  results = _evaluate(net=Net(with_base=False))
  assert results.metrics.keys() == results.calibration.keys() == {'enn'}
  assert 'base' not in results.examples


def test_padding_is_never_an_example():
  results = _evaluate(3)
  assert sorted(results.examples['id']) == [0, 1, 2]


def test_few_examples_are_kept_whatever_the_size():
  results = _evaluate(160, num_examples=5)
  ids = _evaluate(160, num_examples=16).examples['id'][:5]
  np.testing.assert_array_equal(results.examples['id'], ids)


def test_compiles_once_for_many_evaluations():
  traces = collections.Counter()

  class Counting(Net):
    def __call__(self, x, index, *, train=False):
      traces['calls'] += 1
      return super().__call__(x, index, train=train)

  net = Counting()
  evaluator = Evaluator(network=net, dataset=CLASSIFY, num_indices=4, tau=TAU)
  first = _variables(net)
  second = jax.tree.map(lambda leaf: 2 * leaf, first)
  x, y = _examples(40, CLASSIFY)
  a = evaluator(first, _batches(x, y), KEY)
  after_one = traces['calls']
  b = evaluator(second, _batches(x, y), KEY)
  assert traces['calls'] == after_one
  assert a.metrics['enn']['nll'] != b.metrics['enn']['nll']


def test_predict_shows_the_indices_of_the_evaluation():
  mesh = sharding.create_mesh({'data': 4, 'index': 2})
  net, (x, _) = Net(), _examples(13, CLASSIFY)
  variables = _variables(net)
  evaluator = Evaluator(network=net, dataset=CLASSIFY, mesh=mesh, num_indices=N)
  probs = evaluator.predict(variables, x, KEY, N)
  assert probs.shape == (N, 13, C)
  for i, z in enumerate(net.indexer.sample(KEY, N)):
    expected = jax.nn.softmax(net.apply(variables, x, z).preds)
    np.testing.assert_allclose(probs[i], expected, rtol=1e-5)


def test_an_empty_split_is_an_error():
  evaluator = Evaluator(network=Net(), dataset=CLASSIFY)
  with pytest.raises(ValueError, match=r'split is empty.*config\.dataset'):
    evaluator(_variables(Net()), iter(()), KEY)
