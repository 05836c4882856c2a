"""The scorer, on hand-made batches, against metrics of all at once."""

import collections

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers, metrics, sharding
from flax_enn.core import Batch, Output
from flax_enn.evaluation import Scorer
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.model import Model
from tests import slow

B, C, N, TAU = 16, 3, 24, 4
KEY = jax.random.key(7)
CLASSIFY = Categorical(C)
REGRESS = Gaussian(C, scale=0.7)


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
    return Output(out, prior, base if self.with_base else None)


def make_scorer(net=None, likelihood=CLASSIFY, **options):
  spec = jax.ShapeDtypeStruct((5,), np.float32)
  defaults = {'batch_size': B, 'num_indices': N, 'tau': TAU, 'chunk': 7}
  return Scorer(Model(net or Net(), likelihood, spec), **defaults | options)


def _examples(size, likelihood=CLASSIFY):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(size, 5)).astype(np.float32)
  if likelihood == CLASSIFY:
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
  return jax.jit(net.init)(jax.random.key(1), jnp.zeros((B, 5)), jnp.zeros(2))


def _score(size=40, likelihood=CLASSIFY, net=None, **options):
  scorer = make_scorer(net, likelihood, **options)
  batches = _batches(*_examples(size, likelihood))
  return scorer(_variables(scorer.model.network), batches, KEY)


def _all_at_once(size, likelihood):
  """Metrics of base and enn from one [N, B, C] array of the whole split."""
  net, (x, y) = Net(), _examples(size, likelihood)
  indices = net.indexer.sample(KEY, N)
  variables, apply = _variables(net), jax.jit(net.apply)
  outputs = [apply(variables, x, z) for z in indices]
  preds = {
      'base': outputs[0].base[None],
      'enn': jnp.stack([o.preds for o in outputs]),
  }
  computed, collection = {}, metrics.collection(likelihood.metrics)
  for name, values in preds.items():
    stats = metrics.PredictiveStats.zeros(likelihood, size, TAU)
    stats = jax.jit(
        lambda stats, values, y: stats.update(likelihood, values, y)
    )(stats, values, y)
    computed[name] = collection.single_from_model_output(
        predictive=stats, y=y, mask=jnp.ones(size)
    ).compute()
  return computed, stats


def _close(found, expected, rtol=1e-5):
  assert found.keys() == expected.keys() == {'base', 'enn'}
  for name in expected:
    assert found[name].keys() == expected[name].keys()
    for metric, value in expected[name].items():
      np.testing.assert_allclose(
          found[name][metric], value, rtol=rtol, err_msg=f'{name} {metric}'
      )


@pytest.mark.parametrize('likelihood', [CLASSIFY, REGRESS])
def test_streaming_equals_all_at_once(likelihood):
  """39 examples in batches of 16, 24 indices in chunks of 7."""
  results = _score(39, likelihood)
  expected, stats = _all_at_once(39, likelihood)
  found = {k: dict(v) for k, v in results.metrics.items()}
  for values in (*found.values(), *expected.values()):
    values.pop('joint_nll_sampled', None)  # its draw is one per batch
  _close(found, expected)
  order = np.argsort(-np.asarray(stats.disagreement))[:16]
  np.testing.assert_array_equal(results.examples['id'], order)
  np.testing.assert_allclose(
      results.examples['disagreement'], stats.disagreement[order], rtol=1e-4
  )
  x, y = _examples(39, likelihood)
  np.testing.assert_array_equal(results.examples['x'], x[order])
  np.testing.assert_array_equal(results.examples['y'], y[order])
  np.testing.assert_allclose(
      results.examples['enn'], stats.preds[order], rtol=1e-4, atol=1e-6
  )


def test_disagreement_is_counted_for_right_and_wrong():
  results = _score(39)
  _, stats = _all_at_once(39, CLASSIFY)
  right = stats.preds.argmax(-1) == _examples(39)[1]
  edges = np.log(C) * np.linspace(0, 1, 31) ** 3
  for counts, chosen in zip(results.disagreement, (right, ~right)):
    expected, _ = np.histogram(stats.disagreement[chosen], edges)
    np.testing.assert_array_equal(counts, expected)


@pytest.fixture(scope='module')
def on_one_device():
  return _score(40)


@pytest.mark.parametrize('sizes', [slow((1, 8, 1)), (2, 2, 2)])
def test_results_do_not_depend_on_the_mesh(sizes, on_one_device):
  mesh = sharding.create_mesh(dict(zip(sharding.AXES, sizes)))
  found, expected = _score(40, mesh=mesh, chunk=5), on_one_device
  _close(found.metrics, expected.metrics)
  np.testing.assert_array_equal(found.examples['id'], expected.examples['id'])


def test_a_network_without_a_base_has_one_row():
  results = _score(net=Net(with_base=False))
  assert results.metrics.keys() == results.calibration.keys() == {'enn'}
  assert 'base' not in results.examples


def test_padding_is_never_an_example():
  results = _score(3)
  assert sorted(results.examples['id']) == [0, 1, 2]


def test_few_examples_are_kept_whatever_the_size():
  results = _score(160, num_examples=5)
  ids = _score(160, num_examples=16).examples['id'][:5]
  np.testing.assert_array_equal(results.examples['id'], ids)


def test_compiles_once_for_many_evaluations():
  traces = collections.Counter()

  class Counting(Net):
    def __call__(self, x, index, *, train=False):
      traces['calls'] += 1
      return super().__call__(x, index, train=train)

  net = Counting()
  scorer = make_scorer(net, num_indices=4)
  first = _variables(net)
  second = jax.tree.map(lambda leaf: 2 * leaf, first)
  x, y = _examples(40, CLASSIFY)
  a = scorer(first, _batches(x, y), KEY)
  after_one = traces['calls']
  b = scorer(second, _batches(x, y), KEY)
  assert traces['calls'] == after_one
  assert a.metrics['enn']['nll'] != b.metrics['enn']['nll']


def test_predict_shows_the_indices_of_the_evaluation():
  mesh = sharding.create_mesh({'data': 4, 'index': 2})
  net, (x, _) = Net(), _examples(13)
  variables = _variables(net)
  predictor = make_scorer(net, mesh=mesh).predictor(variables, KEY, N)
  logits = predictor.logits(x)
  assert logits.shape == (N, 13, C)
  for i, z in enumerate(net.indexer.sample(KEY, N)):
    expected = net.apply(variables, x, z).preds
    np.testing.assert_allclose(logits[i], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('temperature', [0.5, 2.0])
def test_temperatures_divide_logits(temperature):
  net, (x, y) = Net(), _examples(32)
  variables = _variables(net)
  scorer = make_scorer(
      net,
      CLASSIFY.tempered(temperature),
      num_indices=6,
      base_temperature=3 * temperature,
  )
  results = scorer(variables, _batches(x, y), KEY)
  outputs = [net.apply(variables, x, z) for z in net.indexer.sample(KEY, 6)]
  probs = np.stack([jax.nn.softmax(o.preds / temperature) for o in outputs])
  np.testing.assert_allclose(
      results.metrics['enn']['nll'],
      -np.log(probs.mean(0)[np.arange(32), y]).mean(),
      rtol=1e-5,
  )
  base = jax.nn.softmax(outputs[0].base / (3 * temperature))
  np.testing.assert_allclose(
      results.metrics['base']['nll'],
      -np.log(base[np.arange(32), y]).mean(),
      rtol=1e-5,
  )
  predictor = scorer.predictor(variables, KEY, 6)
  np.testing.assert_allclose(predictor.probs(x), probs.mean(0), rtol=1e-5)


def test_an_empty_split_is_an_error():
  with pytest.raises(ValueError, match='split is empty'):
    make_scorer()(_variables(Net()), iter(()), KEY)
