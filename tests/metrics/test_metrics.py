"""Metrics against slow references in numpy, float64, with loops over pairs."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flax_enn import metrics, sampling
from flax_enn.likelihoods import Categorical, Gaussian

N, B, C, TAU = 6, 13, 4, 3
CLASSES = Categorical(C)


def _logits(seed=0, shape=(N, B, C), scale=2.0):
  return scale * np.random.default_rng(seed).normal(size=shape)


def _labels(seed=1, size=B):
  return np.random.default_rng(seed).integers(0, C, size).astype(np.int32)


@functools.partial(jax.jit, static_argnames=('likelihood', 'tau'))
def _score(likelihood, outputs, y, mask=None, tau=TAU, log_weights=None):
  stats = metrics.PredictiveStats.zeros(likelihood, outputs.shape[1], tau)
  return metrics.collection(likelihood.metrics).single_from_model_output(
      predictive=stats.update(likelihood, outputs, y, log_weights),
      y=y,
      mask=jnp.ones(len(y)) if mask is None else mask,
  )


@functools.partial(jax.jit, static_argnames=('likelihood', 'tau'))
def _fold(likelihood, outputs, y, log_weights=None, tau=TAU):
  zeros = metrics.PredictiveStats.zeros(likelihood, outputs.shape[1], tau)
  return zeros.update(likelihood, outputs, y, log_weights)


def _case(kind, seed=0, size=B):
  """A likelihood, outputs `[N, B, C]` and targets."""
  if kind == 'classification':
    return Categorical(C), _logits(seed, (N, size, C)), _labels(size=size)
  targets = _logits(seed + 3, (size, C))
  if kind == 'regression':
    return Gaussian(C, scale=0.5), _logits(seed, (N, size, C)), targets
  outputs = _logits(seed, (N, size, 2 * C), scale=0.7)
  return Gaussian(C, scale=None), outputs, targets


KINDS = ('classification', 'regression', 'learned variance')


def _reference_joint(likelihood, tau):
  """Expectation over all 2^tau draws, one pair and one draw at a time."""
  losses = []
  for a in range(0, likelihood.shape[1] - 1, 2):
    for draw in itertools.product([a, a + 1], repeat=tau):
      losses.append(-np.log(likelihood[:, list(draw)].prod(1).mean()))
  return np.mean(losses)


def _reference_distinct(likelihood, tau):
  whole = likelihood.shape[1] // tau * tau
  return np.mean([
      -np.log(likelihood[:, b : b + tau].prod(1).mean())
      for b in range(0, whole, tau)
  ])


def _close(found, expected, rtol=2e-5):
  assert found.keys() == expected.keys()
  for name, value in expected.items():
    np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


def test_classification_against_numpy():
  logits, y = _logits(), _labels()
  probs = scipy.special.softmax(logits, -1)
  mean, likelihood = probs.mean(0), probs[:, np.arange(B), y]
  confidence, right = mean.max(-1), mean.argmax(-1) == y
  ece = 0.0
  for lower, upper in itertools.pairwise(np.linspace(0, 1, 16)):
    inside = (confidence >= lower) & (confidence < upper)
    if inside.any():
      gap = right[inside].mean() - confidence[inside].mean()
      ece += inside.mean() * abs(gap)
  found = _score(CLASSES, logits, y).compute()
  found.pop('joint_nll_sampled')
  _close(
      found,
      {
          'accuracy': right.mean(),
          'nll': -np.log(likelihood.mean(0)).mean(),
          'joint_nll': _reference_joint(likelihood, TAU),
          'joint_nll_distinct': _reference_distinct(likelihood, TAU),
          'ece': ece,
          'brier': np.square(mean - np.eye(C)[y]).sum(-1).mean(),
      },
  )


def test_regression_against_numpy():
  preds, y, std = _logits(2), _logits(3, (B, C)), 1.5
  likelihood = scipy.stats.norm.pdf(y, preds, std).prod(-1)
  _close(
      _score(Gaussian(C, scale=std), preds, y).compute(),
      {
          'rmse': np.sqrt(np.square(preds.mean(0) - y).mean()),
          'nll': -np.log(likelihood.mean(0)).mean(),
          'joint_nll': _reference_joint(likelihood, TAU),
          'joint_nll_distinct': _reference_distinct(likelihood, TAU),
      },
  )


def test_joint_nll_is_the_mean_of_sampled_draws():
  """Monte Carlo, with tau too large to enumerate; 4 standard errors."""
  tau, draws, rng = 40, 20_000, np.random.default_rng(0)
  logits, y = _logits(scale=0.5), _labels()
  likelihood = np.log(scipy.special.softmax(logits, -1))[:, np.arange(B), y]
  means, variances = [], []
  for a in range(0, B - 1, 2):
    times = rng.integers(0, 2, (draws, tau)).sum(-1)[:, None]
    joint = times * likelihood[:, a] + (tau - times) * likelihood[:, a + 1]
    losses = -scipy.special.logsumexp(joint, axis=1, b=1 / N)
    means.append(losses.mean())
    variances.append(losses.var() / draws)
  error = 4 * math.sqrt(np.sum(variances)) / len(means)
  found = _score(CLASSES, logits, y, tau=tau).compute()['joint_nll']
  assert abs(found - np.mean(means)) < error < 0.1


def test_sampled_joint_nll_is_one_of_the_draws():
  """The streaming form picks what the plain form computes."""
  logits, y = _logits(), _labels()
  probs = scipy.special.softmax(logits, -1)[:, np.arange(B), y]
  plain = metrics.polyadic_nll(jnp.log(probs), jnp.asarray(y), tau=TAU, kappa=2)
  found = _score(CLASSES, logits, y).compute()['joint_nll_sampled']
  np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize('logits_of', ['base', 'tiled'])
def test_without_an_index_joint_is_tau_times_marginal(logits_of):
  y = _labels(size=12)
  logits = _logits(shape=(1, 12, C))
  if logits_of == 'tiled':
    logits = np.tile(logits, (50, 1, 1))
  found = _score(CLASSES, logits, y).compute()
  for name in ('joint_nll', 'joint_nll_distinct'):
    np.testing.assert_allclose(found[name], TAU * found['nll'], rtol=1e-5)


def test_disagreement_is_mutual_information():
  logits, y = _logits(), _labels()
  probs = scipy.special.softmax(logits, -1)
  entropy = scipy.stats.entropy
  expected = entropy(probs.mean(0), axis=-1) - entropy(probs, axis=-1).mean(0)
  stats = _fold(CLASSES, logits, y)
  np.testing.assert_allclose(stats.disagreement, expected, rtol=1e-4)
  assert (stats.disagreement <= CLASSES.max_disagreement).all()
  stats = _fold(Gaussian(C), logits, probs[0])
  expected = np.sqrt(logits.var(0).mean(-1))
  np.testing.assert_allclose(stats.disagreement, expected, rtol=1e-5)
  assert Gaussian(C).max_disagreement is None


@pytest.mark.parametrize('kind', KINDS[1:])
def test_variances_add_up(kind):
  """The law of total variance, against draws of each component's moments."""
  likelihood, outputs, y = _case(kind)
  found = _fold(likelihood, outputs, y).stats
  mean = outputs[..., :C]
  variance = 0.25 if kind == 'regression' else np.exp(outputs[..., C:])
  second = (np.square(mean) + variance).mean(0)
  np.testing.assert_allclose(
      found.epistemic + found.aleatoric,
      second - np.square(mean.mean(0)),
      rtol=1e-5,
  )
  np.testing.assert_allclose(found.epistemic, mean.var(0), rtol=1e-5)
  np.testing.assert_allclose(found.mean, mean.mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('chunk', [1, 4])
@pytest.mark.parametrize('kind', KINDS)
def test_chunks_of_indices_change_nothing(kind, chunk):
  likelihood, outputs, y = _case(kind)
  if kind != 'classification':  # far from zero, where squares would cancel
    outputs, y = outputs + [100, 0, 0, 0] * (outputs.shape[-1] // C), y + 100
  outputs = jnp.asarray(outputs, jnp.float32)
  log_weights = jnp.asarray(_logits(7, (N,)), jnp.float32)

  @jax.jit
  def fold(outputs, log_weights):
    return sampling.reduce_over_index(
        lambda pair: (outputs[pair[0]], pair[1]),
        (jnp.arange(N), log_weights),
        init=metrics.PredictiveStats.zeros(likelihood, B, TAU),
        reduce=lambda stats, found: stats.update(
            likelihood, found[0], y, found[1]
        ),
        chunk=chunk,
    )

  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
      fold(outputs, log_weights),
      _fold(likelihood, outputs, y, log_weights),
  )


@pytest.mark.parametrize('kind', KINDS)
def test_weights_are_repeated_indices(kind):
  likelihood, outputs, y = _case(kind)
  times = np.array([1, 3, 0, 2, 1, 5])
  with np.errstate(divide='ignore'):
    log_weights = np.log(times)
  repeated = np.repeat(outputs, times, axis=0)
  weighted = _fold(likelihood, outputs, y, log_weights)
  plain = _fold(likelihood, repeated, y)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
      weighted,
      plain,
  )
  _close(
      _score(likelihood, outputs, y, log_weights=log_weights).compute(),
      _score(likelihood, repeated, y).compute(),
  )


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('log_weight', [0.0, -3.7, 80.0, -200.0])
def test_equal_weights_change_nothing(kind, log_weight):
  likelihood, outputs, y = _case(kind)
  log_weights = np.full(N, log_weight)
  found = _score(likelihood, outputs, y, log_weights=log_weights).compute()
  # A large weight is added to each log-density and taken off again.
  rtol = 1e-6 if abs(log_weight) < 10 else 2e-5
  _close(found, _score(likelihood, outputs, y).compute(), rtol=rtol)


@pytest.mark.parametrize('kind', KINDS)
def test_indices_of_no_weight_are_not_there(kind):
  """Also where they come first, alone, and with outputs that are wild."""
  likelihood, outputs, y = _case(kind)
  none = np.full(2, -np.inf)
  wild = np.full((2, *outputs.shape[1:]), 30.0)
  first = _fold(likelihood, wild, y, none)
  assert not any(np.isnan(leaf).any() for leaf in jax.tree.leaves(first))
  # Alone they have no mean, which no number hides.
  assert np.isneginf(first.log_total)
  assert np.isnan(first.log_mean(first.marginal)).all()
  both = first.update(likelihood, jnp.asarray(outputs), y)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      both.update(likelihood, jnp.asarray(wild), y, jnp.asarray(none)),
      _fold(likelihood, outputs, y),
  )


@pytest.mark.parametrize('kind', KINDS)
def test_wide_floats_and_narrow_ones(kind):
  likelihood, outputs, y = _case(kind)
  narrow = _fold(likelihood, jnp.asarray(outputs, jnp.bfloat16), y)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(narrow))
  found = _score(likelihood, jnp.asarray(outputs, jnp.bfloat16), y).compute()
  rounded = np.asarray(jnp.asarray(outputs, jnp.bfloat16), np.float64)
  _close(found, _score(likelihood, rounded, y).compute(), rtol=1e-6)
  with jax.enable_x64(True):
    wide = sampling.reduce_over_index(
        lambda i: jnp.asarray(outputs)[i],
        jnp.arange(N),
        init=metrics.PredictiveStats.zeros(likelihood, B, TAU),
        reduce=lambda stats, found: stats.update(likelihood, found, y),
        chunk=2,
    )
    mean = np.asarray(likelihood.moments(outputs)[0]).mean(0)
  assert wide.preds.dtype == np.float64
  np.testing.assert_allclose(wide.preds, mean, rtol=1e-12)


@pytest.mark.parametrize('kind', KINDS)
def test_batches_merge_to_the_whole(kind):
  likelihood, outputs, y = _case(kind, size=30)
  first, second, whole = (
      _score(likelihood, outputs[:, rows], y[rows])
      for rows in (slice(12), slice(12, None), slice(None))
  )
  merged, whole = first.merge(second).compute(), whole.compute()
  # enn's draw is keyed on the labels of a batch.
  merged.pop('joint_nll_sampled', None), whole.pop('joint_nll_sampled', None)
  _close(merged, whole)


@pytest.mark.parametrize('size', [13, 12, 5])
@pytest.mark.parametrize('kind', KINDS)
def test_padding_changes_nothing(kind, size):
  """Law 7, with padding that would show: NaN outputs and wrong labels."""
  padding = 18 - size
  likelihood, outputs, y = _case(kind, size=size)
  padded = np.pad(
      outputs, [(0, 0), (0, padding), (0, 0)], constant_values=np.nan
  )
  wrong = np.pad(
      y, [(0, padding)] + [(0, 0)] * (y.ndim - 1), constant_values=3
  )
  mask = np.repeat([1.0, 0.0], [size, padding])
  wide = _score(likelihood, padded, wrong, mask)
  plain = _score(likelihood, outputs, y)
  _close(wide.compute(), plain.compute(), rtol=1e-6)


def test_nothing_is_nan_where_probabilities_underflow():
  logits = np.where(np.arange(C) == 0, 1e4, -1e4) * np.ones((N, B, 1))
  sure = _score(CLASSES, logits, np.zeros(B, np.int32)).compute()
  wrong = _score(CLASSES, logits, np.full(B, 2, np.int32)).compute()
  for name in ('nll', 'joint_nll', 'joint_nll_sampled', 'joint_nll_distinct'):
    scale = 1 if name == 'nll' else TAU
    np.testing.assert_allclose(sure[name], 0.0, atol=1e-5)
    np.testing.assert_allclose(wrong[name], scale * 2e4, rtol=1e-6)
  for name, value in (('ece', 1), ('brier', 2), ('accuracy', 0)):
    np.testing.assert_allclose(wrong[name], value, rtol=1e-6)


def test_an_impossible_label_costs_infinity_and_only_where_it_is_drawn():
  logits = np.zeros((N, 2, C))
  logits[:, 0, 1] = -np.inf
  y = np.array([1, 0], np.int32)
  stats = _fold(CLASSES, jnp.asarray(logits, jnp.float32), y)
  dyadic = stats.log_mean(stats.dyadic)[0]
  np.testing.assert_allclose(dyadic[0], -TAU * np.log(C), rtol=1e-6)
  assert np.isneginf(dyadic[1:]).all()
  found = _score(CLASSES, logits, y).compute()
  assert found['nll'] == found['joint_nll'] == np.inf
  assert np.isfinite(found['brier'])


def test_a_label_that_is_not_a_class_gives_nan():
  for label in (-1, C):
    y = _labels()
    y[0] = label
    assert np.isnan(_score(CLASSES, _logits(), y).compute()['nll'])


def test_ece_counts_confidence_exactly_one():
  """3 of 4 right at confidence 1, and one example that is sure to 0.6."""
  probs = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0.6, 0.4]])
  with np.errstate(divide='ignore'):
    logits, y = np.log(probs)[None], np.array([0, 0, 0, 1, 0])
    found = _score(Categorical(2), logits, y)
  assert found.ece.count[-1] == 4 and found.ece.count.sum() == 5
  expected = 4 / 5 * 0.25 + 1 / 5 * 0.4
  np.testing.assert_allclose(found.ece.compute(), expected, rtol=1e-5)


def test_tau_must_be_positive():
  with pytest.raises(ValueError, match=r'tau is 0; it must be at least 1'):
    metrics.PredictiveStats.zeros(CLASSES, 4, 0)
