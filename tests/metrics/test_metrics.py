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

N, B, C, TAU = 6, 13, 4, 3


def _logits(seed=0, shape=(N, B, C), scale=2.0):
  return scale * np.random.default_rng(seed).normal(size=shape)


def _labels(seed=1, size=B):
  return np.random.default_rng(seed).integers(0, C, size).astype(np.int32)


@functools.partial(jax.jit, static_argnames='tau')
def _classify(logits, y, mask=None, tau=TAU):
  moments = metrics.ClassificationMoments.zeros(*logits.shape[1:], tau)
  return metrics.Classification.single_from_model_output(
      moments=moments.update(logits, y),
      y=y,
      mask=jnp.ones(len(y)) if mask is None else mask,
  )


@functools.partial(jax.jit, static_argnames='tau')
def _regress(preds, y, noise_std=0.5, mask=None, tau=TAU):
  moments = metrics.RegressionMoments.zeros(*preds.shape[1:], tau)
  return metrics.Regression.single_from_model_output(
      moments=moments.update(preds, y, noise_std),
      y=y,
      mask=jnp.ones(len(y)) if mask is None else mask,
  )


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
  found = _classify(logits, y).compute()
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
      _regress(preds, y, std).compute(),
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
  found = _classify(logits, y, tau=tau).compute()['joint_nll']
  assert abs(found - np.mean(means)) < error < 0.1


def test_sampled_joint_nll_is_one_of_the_draws():
  """The streaming form picks what the plain form computes."""
  logits, y = _logits(), _labels()
  probs = scipy.special.softmax(logits, -1)[:, np.arange(B), y]
  plain = metrics.polyadic_nll(jnp.log(probs), jnp.asarray(y), tau=TAU, kappa=2)
  found = _classify(logits, y).compute()['joint_nll_sampled']
  np.testing.assert_allclose(found, plain, rtol=1e-5)


@pytest.mark.parametrize('logits_of', ['base', 'tiled'])
def test_without_an_index_joint_is_tau_times_marginal(logits_of):
  y = _labels(size=12)
  logits = _logits(shape=(1, 12, C))
  if logits_of == 'tiled':
    logits = np.tile(logits, (50, 1, 1))
  found = _classify(logits, y).compute()
  for name in ('joint_nll', 'joint_nll_distinct'):
    np.testing.assert_allclose(found[name], TAU * found['nll'], rtol=1e-5)


def test_disagreement_is_mutual_information():
  logits, y = _logits(), _labels()
  probs = scipy.special.softmax(logits, -1)
  entropy = scipy.stats.entropy
  expected = entropy(probs.mean(0), axis=-1) - entropy(probs, axis=-1).mean(0)
  moments = metrics.ClassificationMoments.zeros(B, C, TAU)
  moments = jax.jit(moments.update)(logits, y)
  np.testing.assert_allclose(moments.disagreement, expected, rtol=1e-4)
  moments = metrics.RegressionMoments.zeros(B, C, TAU)
  moments = jax.jit(moments.update)(logits, probs[0], 1.0)
  expected = np.sqrt(logits.var(0).mean(-1))
  np.testing.assert_allclose(moments.disagreement, expected, rtol=1e-5)


@pytest.mark.parametrize('chunk', [1, 2, 4, 6])
@pytest.mark.parametrize('task', ['classification', 'regression'])
def test_chunks_of_indices_change_nothing(task, chunk):
  values = jnp.asarray(_logits() + 100 * (task == 'regression'), jnp.float32)
  if task == 'classification':
    options = {'y': jnp.asarray(_labels())}
    zeros = metrics.ClassificationMoments.zeros(B, C, TAU)
  else:
    options = {'y': jnp.asarray(100 + _logits(3, (B, C))), 'noise_std': 2.0}
    zeros = metrics.RegressionMoments.zeros(B, C, TAU)

  @jax.jit
  def fold(values):
    return sampling.reduce_over_index(
        lambda i: values[i],
        jnp.arange(N),
        init=zeros,
        reduce=lambda moments, preds: moments.update(preds, **options),
        chunk=chunk,
    )

  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      fold(values),
      zeros.update(values, **options),
  )


def _slices(task, sizes):
  """Collections of consecutive slices of one data set."""
  total = sum(sizes)
  preds, y = _logits(shape=(N, total, C)), _labels(size=total)
  targets = _logits(3, (total, C))
  starts = np.cumsum([0, *sizes])
  for a, b in itertools.pairwise(starts):
    if task == 'classification':
      yield _classify(preds[:, a:b], y[a:b])
    else:
      yield _regress(preds[:, a:b], targets[a:b])


@pytest.mark.parametrize('task', ['classification', 'regression'])
def test_batches_merge_to_the_whole(task):
  first, second = _slices(task, (12, 18))
  (whole,) = _slices(task, (30,))
  merged, whole = first.merge(second).compute(), whole.compute()
  # enn's draw is keyed on the labels of a batch.
  merged.pop('joint_nll_sampled', None), whole.pop('joint_nll_sampled', None)
  _close(merged, whole)


@pytest.mark.parametrize('size', [13, 12, 5])
@pytest.mark.parametrize('task', ['classification', 'regression'])
def test_padding_changes_nothing(task, size):
  """Law 7, with padding that would show: NaN outputs and wrong labels."""
  padding = 18 - size
  preds, y, targets = _logits(), _labels(), _logits(3, (B, C))
  preds, y, targets = preds[:, :size], y[:size], targets[:size]
  padded = np.pad(
      preds, [(0, 0), (0, padding), (0, 0)], constant_values=np.nan
  )
  mask = np.repeat([1.0, 0.0], [size, padding])
  if task == 'classification':
    wide = _classify(padded, np.pad(y, (0, padding), constant_values=3), mask)
    plain = _classify(preds, y)
  else:
    wide = _regress(padded, np.pad(targets, [(0, padding), (0, 0)]), mask=mask)
    plain = _regress(preds, targets)
  _close(wide.compute(), plain.compute(), rtol=1e-6)


def test_nothing_is_nan_where_probabilities_underflow():
  logits = np.where(np.arange(C) == 0, 1e4, -1e4) * np.ones((N, B, 1))
  sure = _classify(logits, np.zeros(B, np.int32)).compute()
  wrong = _classify(logits, np.full(B, 2, np.int32)).compute()
  for name in ('nll', 'joint_nll', 'joint_nll_sampled', 'joint_nll_distinct'):
    scale = 1 if name == 'nll' else TAU
    np.testing.assert_allclose(sure[name], 0.0, atol=1e-5)
    np.testing.assert_allclose(wrong[name], scale * 2e4, rtol=1e-6)
  assert wrong['ece'] == 1 and wrong['brier'] == 2 and wrong['accuracy'] == 0


def test_an_impossible_label_costs_infinity_and_only_where_it_is_drawn():
  logits = np.zeros((N, 2, C))
  logits[:, 0, 1] = -np.inf
  y = np.array([1, 0], np.int32)
  moments = metrics.ClassificationMoments.zeros(2, C, TAU)
  moments = jax.jit(moments.update)(jnp.asarray(logits, jnp.float32), y)
  dyadic = moments.mean(moments.dyadic)[0]
  np.testing.assert_allclose(dyadic[0], -TAU * np.log(C), rtol=1e-6)
  assert np.isneginf(dyadic[1:]).all()
  found = _classify(logits, y).compute()
  assert found['nll'] == found['joint_nll'] == np.inf
  assert np.isfinite(found['brier'])


def test_a_label_that_is_no_class_gives_nan():
  for label in (-1, C):
    y = _labels()
    y[0] = label
    assert np.isnan(_classify(_logits(), y).compute()['nll'])


def test_ece_counts_confidence_exactly_one():
  """3 of 4 right at confidence 1, and one example that is sure to 0.6."""
  probs = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [0.6, 0.4]])
  with np.errstate(divide='ignore'):
    found = _classify(np.log(probs)[None], np.array([0, 0, 0, 1, 0]))
  assert found.ece.count[-1] == 4 and found.ece.count.sum() == 5
  expected = 4 / 5 * 0.25 + 1 / 5 * 0.4
  np.testing.assert_allclose(found.ece.compute(), expected, rtol=1e-5)


def test_tau_must_be_positive():
  with pytest.raises(ValueError, match=r'tau is 0; set config\.eval\.tau'):
    metrics.ClassificationMoments.zeros(4, C, 0)
