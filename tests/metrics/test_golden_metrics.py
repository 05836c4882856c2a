"""Parity with what enn computes on one set of logits, to 1e-5 relative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import metrics
from flax_enn.likelihoods import Categorical
from tests.golden.cases import load_case

CASE = 'metrics/all'


def _inputs(case):
  logits = jnp.asarray(case.arrays['in::logits'], jnp.float32)
  return logits, jnp.asarray(case.arrays['in::labels'][:, 0])


@functools.partial(jax.jit, static_argnames=('tau', 'num_bins'))
def _compute(logits, y, tau=10, num_bins=15):
  likelihood = Categorical(logits.shape[-1])
  stats = metrics.PredictiveStats.zeros(likelihood, len(y), tau)
  return metrics.collection(likelihood.metrics).single_from_model_output(
      predictive=stats.update(likelihood, logits, y),
      y=y,
      mask=jnp.ones(len(y)),
      num_bins=num_bins,
  )


@pytest.mark.parametrize(
    'metric, tau, recorded',
    [
        ('accuracy', 10, 'accuracy'),
        ('nll', 10, 'nll_marginal'),
        ('joint_nll_distinct', 1, 'nll_joint_tau1'),
        ('joint_nll_distinct', 5, 'nll_joint_tau5'),
        ('joint_nll_distinct', 10, 'nll_joint_tau10'),
        ('joint_nll_sampled', 10, 'nll_polyadic_tau10_kappa2'),
    ],
)
def test_golden_average(metric, tau, recorded):
  case = load_case(CASE)
  result = _compute(*_inputs(case), tau=tau).compute()[metric]
  np.testing.assert_allclose(result, case.arrays[f'ret::{recorded}'], rtol=1e-5)


@pytest.mark.parametrize('tau, kappa', [(10, 2), (5, 3)])
def test_golden_polyadic(tau, kappa):
  case = load_case(CASE)
  logits, y = _inputs(case)
  logits = np.asarray(logits, np.float64)
  log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  result = metrics.polyadic_nll(
      jnp.asarray(log_probs[:, np.arange(len(y)), y]), y, tau=tau, kappa=kappa
  )
  recorded = case.arrays[f'ret::nll_polyadic_tau{tau}_kappa{kappa}']
  np.testing.assert_allclose(result, recorded, rtol=1e-5)


@pytest.mark.parametrize('num_bins', [5, 10])
def test_golden_ece(num_bins):
  """enn's ECE; it drops confidence exactly 1, which this case does not have."""
  case = load_case(CASE)
  logits, y = _inputs(case)
  total = metrics.ECE.empty(num_bins)
  for start in (0, 8, 16):
    rows = slice(start, start + 8)
    update = _compute(logits[:, rows], y[rows], num_bins=num_bins).ece
    total = total.merge(update)
    recorded = case.arrays[f'ret::ece_{num_bins}_after_{start}']
    np.testing.assert_allclose(total.compute(), recorded, rtol=1e-5)
  extra = f'ret::ece_{num_bins}_extra::'
  bins = {
      'counts': total.count,
      'prob_sums': total.confidence,
      'correct_sums': total.correct,
  }
  for name, values in bins.items():
    np.testing.assert_allclose(values, case.arrays[extra + name], rtol=1e-5)
  np.testing.assert_allclose(
      _compute(logits, y, num_bins=num_bins).ece.compute(),
      case.arrays[f'ret::single_batch_ece_{num_bins}'],
      rtol=1e-5,
  )
