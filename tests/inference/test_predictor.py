"""Predictions of a Predictor, against numpy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.likelihoods import Gaussian
from tests import slow
from tests.inference import models

KEY = jax.random.key(3)


def entropy(p):
  return -(p * np.log(p)).sum(-1)


def test_it_is_shown_in_a_line():
  shown = repr(models.members())
  assert '\n' not in shown and 'Members' in shown and 'indices' in shown


@pytest.mark.parametrize('rows', [1, 7, 130])
def test_marginals_are_means_over_members(rows):
  """Whatever the number of rows, so that padding is of no influence."""
  p, x = models.members(temperature=2.0), models.inputs(rows)
  each = models.member_probs(p, x)
  mean = each.mean(0)
  np.testing.assert_allclose(p.probs(x), mean, rtol=1e-5)
  found = p.uncertainty(x)
  top = np.sort(mean)[:, ::-1]
  votes = np.stack([(each.argmax(-1) == c).mean(0) for c in range(3)])
  for name, expected in {
      'total': entropy(mean),
      'aleatoric': entropy(each).mean(0),
      'epistemic': entropy(mean) - entropy(each).mean(0),
      'max_probability': top[:, 0],
      'margin': top[:, 0] - top[:, 1],
      'variation_ratio': 1 - votes.max(0),
  }.items():
    np.testing.assert_allclose(
        found.pop(name), expected, rtol=1e-4, atol=1e-6, err_msg=name
    )
  assert not found


def test_logits_have_no_temperature():
  hot, x = models.members(temperature=5.0), models.inputs(3)
  logits = hot.logits(x)
  np.testing.assert_array_equal(logits, models.members().logits(x))
  assert logits.shape == (5, 3, 3) and isinstance(logits, np.ndarray)
  other = hot.model.network.indexer.sample(KEY, 2)
  assert hot.logits(x, other).shape == (2, 3, 3)


def test_samples_are_functions_drawn_by_weight():
  p = models.members(log_weights=[0, -np.inf, 1.0, -np.inf, -np.inf])
  x = models.inputs(4)
  found, own = p.sample(x, KEY, 200), p.logits(x)
  which = (found[:, None] == own[None]).all((-1, -2))
  assert (which.sum(1) == 1).all()
  share = which.mean(0)
  assert share[[1, 3, 4]].sum() == 0
  assert share[2] == pytest.approx(1 / (1 + np.exp(-1)), abs=0.1)


def test_results_are_of_the_kind_of_the_inputs():
  p, x = models.members(), models.inputs(2)
  assert isinstance(p.probs(x), np.ndarray)
  assert isinstance(p.probs(jnp.asarray(x)), jax.Array)
  assert isinstance(p.uncertainty(jnp.asarray(x))['total'], jax.Array)


def test_a_regression():
  p, x = models.linear(64, noise=0.3), models.inputs(5)
  each = x @ np.asarray(p.indices).T
  mean, std = p.mean_and_std(x)
  np.testing.assert_allclose(mean[:, 0], each.mean(1), rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(std[:, 0] ** 2, each.var(1) + 0.09, rtol=1e-4)
  found = p.uncertainty(x)
  np.testing.assert_allclose(found['epistemic'][:, 0], each.var(1), rtol=1e-4)
  np.testing.assert_allclose(found['aleatoric'], 0.09, rtol=1e-5)
  assert found.keys() == {'total', 'aleatoric', 'epistemic'}


@pytest.mark.parametrize('rows', [1, 40, 300])
def test_joint_log_probability_of_members(rows):
  p, x, y = models.members(), models.inputs(rows), models.labels(rows)
  each = models.member_probs(p, x)[:, np.arange(rows), y]
  expected = np.logaddexp.reduce(np.log(each).sum(1)) - np.log(5)
  assert p.log_joint(x, y) == pytest.approx(expected, rel=1e-5)


def test_conditioning_is_bayes_rule():
  p, x, y = models.members(), models.inputs(6), models.labels(6)
  each = models.member_probs(p, x)
  weights = each[:, np.arange(6), y].prod(1)
  weights /= weights.sum()
  q = p.condition(x, y)
  assert q.effective_sample_size == pytest.approx(1 / (weights**2).sum(), 1e-4)
  more = models.inputs(9, seed=1)
  expected = np.einsum('k,kbc->bc', weights, models.member_probs(p, more))
  np.testing.assert_allclose(q.probs(more), expected, rtol=1e-4)


@pytest.mark.parametrize(
    'make',
    [
        models.members,
        slow(lambda: models.curved(400)),
    ],
)
def test_chain_rule_and_order_of_evidence(make):
  p, (xa, ya), (xb, yb) = make(), *(
      (models.inputs(n, seed), models.labels(n, seed))
      for n, seed in ((5, 1), (4, 2))
  )
  both = np.concatenate([xa, xb]), np.concatenate([ya, yb])
  q = p.condition(xa, ya)
  chain = p.log_joint(xa, ya) + q.log_joint(xb, yb)
  assert p.log_joint(*both) == pytest.approx(chain, rel=1e-5)
  x = models.inputs(8)
  once = p.condition(*both).probs(x)
  for twice in q.condition(xb, yb), p.condition(xb, yb).condition(xa, ya):
    np.testing.assert_allclose(twice.probs(x), once, rtol=1e-5)


def posterior(x, y, noise):
  """Of `y = x · z + noise`, z ~ N(0, I / D): mean and covariance."""
  precision = models.D * np.eye(models.D) + x.T @ x / noise**2
  covariance = np.linalg.inv(precision)
  return covariance @ x.T @ y / noise**2, covariance


@pytest.mark.parametrize(
    'rows, n',
    [(5, 20_000), slow(500, 1000)],
)
def test_the_posterior_of_a_linear_regression(rows, n):
  """With a few labels by weights alone; with many these have collapsed."""
  noise, p = 0.5, models.linear(n)
  rng = np.random.default_rng(0)
  x = models.inputs(rows)
  y = x @ np.array([0.7, -0.4, 0.2]) + noise * rng.normal(size=rows)
  weighted = p.condition(x, y[:, None], refine=False)
  assert (weighted.effective_sample_size < 20) == (rows == 500)
  q = p.condition(x, y[:, None])
  mean, covariance = posterior(x, y, noise)
  test = models.inputs(20, seed=1)
  found, std = q.mean_and_std(test)
  exact = np.sqrt(np.einsum('bd,de,be->b', test, covariance, test))
  # Of the standard deviation of the mean's own posterior.
  errors = np.abs(found[:, 0] - test @ mean) / exact
  assert errors.max() < 0.12, errors
  spread = np.sqrt(q.uncertainty(test)['epistemic'][:, 0])
  np.testing.assert_allclose(spread, exact, rtol=0.12)
  np.testing.assert_allclose(std[:, 0], np.hypot(exact, noise), rtol=0.04)


def test_joint_density_of_a_linear_regression():
  noise, p, rows = 0.5, models.linear(40_000), 3
  x, y = models.inputs(rows), np.array([0.3, -0.2, 0.6])
  cov = x @ x.T / models.D + noise**2 * np.eye(rows)
  expected = -0.5 * (
      y @ np.linalg.solve(cov, y) + np.linalg.slogdet(2 * np.pi * cov)[1]
  )
  assert p.log_joint(x, y[:, None]) == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_refined_indices_are_those_of_all_evidence():
  """In whatever pieces it came; and the base does not run for it."""
  p = models.curved(400)
  x = models.inputs(24)
  y = np.asarray(p.sample(x, KEY, 1)[0].argmax(-1))
  once = p.condition(x, y)
  assert once.effective_sample_size == pytest.approx(400, rel=1e-4)
  assert not np.array_equal(once.indices, p.indices)
  twice = p.condition(x[:14], y[:14]).condition(x[14:], y[14:])
  test = models.inputs(50, seed=5)
  # The sampler's own randomness: sums in another order decide otherwise.
  np.testing.assert_allclose(twice.probs(test), once.probs(test), atol=0.06)
  exact = models.curved(40_000).condition(x, y, refine=False)
  assert exact.effective_sample_size > 300
  np.testing.assert_allclose(once.probs(test), exact.probs(test), atol=0.06)


def test_few_indices_that_count_are_told_of(caplog):
  p = models.curved(200)
  x, y = models.inputs(60), np.zeros(60, int)
  q = p.condition(x, y, refine=False)
  assert 'indices only' in caplog.text and 'refine=True' in caplog.text
  np.testing.assert_array_equal(q.indices, p.indices)


@pytest.mark.parametrize(
    'sizes',
    [
        slow({'data': 8}),
        {'data': 2, 'index': 4},
        slow({'data': 4, 'fsdp': 2}),
    ],
)
def test_any_mesh(sizes):
  mesh = sharding.create_mesh(sizes)
  one = sharding.create_mesh({}, jax.devices()[:1])
  x, y = models.inputs(11), models.labels(11)
  found, expected = (models.curved(16, mesh=m) for m in (mesh, one))
  for name, value in expected.uncertainty(x).items():
    np.testing.assert_allclose(
        found.uncertainty(x)[name], value, rtol=1e-4, atol=1e-6
    )
  assert found.log_joint(x, y) == pytest.approx(expected.log_joint(x, y), 1e-5)
  np.testing.assert_allclose(
      found.condition(x[:4], y[:4]).probs(x),
      expected.condition(x[:4], y[:4]).probs(x),
      rtol=1e-5,
  )


X, Y = models.inputs(4), models.labels(4)


@pytest.mark.parametrize(
    'call, message',
    [
        (lambda p: p.probs(X[0]), r'float32\[3\].*\[B, 3\].*x\[None\]'),
        (lambda p: p.probs(X[:, :2]), r'float32\[4, 2\]; expected float32'),
        (lambda p: p.probs(X[:0]), r'B >= 1'),
        (lambda p: p.probs(X.astype(np.uint8)), r'uint8.*`preprocess'),
        (lambda p: p.probs({'x': X}), r"\{'x'.*expected float32\[B, 3\]"),
        (lambda p: p.log_joint(X, Y[:3]), r'4 inputs x, but 3 targets y'),
        (lambda p: p.log_joint(X, X), r'y is float32\[4, 3\]; .* int32\[B\]'),
        (lambda p: p.log_joint(X, Y + 3), r'y\[\d\] is \d; labels are 0 to 2'),
        (lambda p: p.condition(X, Y * 1.0), r'y is float64\[4\]'),
        (lambda p: p.mean_and_std(X), r'mean_and_std is for .* numbers'),
        (lambda p: p.logits(X, np.ones((2, 4))), r'indices are float64\[2, 4'),
        (lambda p: p.information_gain(X, X, num_samples=1), r'at least 2'),
        (lambda p: p.preprocess('/no/such.png'), r'such.png is not a file'),
        (
            lambda p: p.preprocess(np.zeros((4, 4), np.uint8)),
            r'is an image, but inputs of this model are .*\(3,\)',
        ),
    ],
)
def test_bad_input_is_one_sentence(call, message):
  with pytest.raises(ValueError, match=message) as caught:
    call(models.members())
  assert '\n' not in str(caught.value)


def test_methods_of_classes_refuse_numbers():
  p = models.linear(4)
  for call in (p.probs, lambda x: p.information_gain(x, x)):
    with pytest.raises(ValueError, match='for predictions of classes'):
      call(X)
  with pytest.raises(ValueError, match=r'y\[1\] is \[nan\]'):
    p.log_joint(X[:2], np.array([[0.0], [np.nan]]))


def test_impossible_evidence():
  p = models.predictor(models.Linear(), Gaussian(1, scale=1e-4), 8)
  y = np.full((1, 1), 1e30, np.float32)
  with pytest.raises(ValueError, match='1 examples, has probability 0'):
    p.condition(models.inputs(1), y)
