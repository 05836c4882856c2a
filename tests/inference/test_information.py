"""Information gain, against enumeration in numpy."""

import itertools
import math

import numpy as np
import pytest

from flax_enn.inference import information
from tests.inference import models


def enumerated(p, candidates, targets):
  """`[M]` I(y_m; y_1 … y_T) by the definition, over all joint labels."""
  c, t = (models.member_probs(p, x) for x in (candidates, targets))
  w = np.exp(np.asarray(p.log_weights, np.float64))
  w /= w.sum()
  gains = np.zeros(len(candidates))
  for m, labels in itertools.product(
      range(len(candidates)), itertools.product(range(3), repeat=len(targets))
  ):
    of_targets = np.prod([t[:, i, k] for i, k in enumerate(labels)], axis=0)
    for k in range(3):
      both = w @ (of_targets * c[:, m, k])
      gains[m] += both * math.log(
          both / ((w @ of_targets) * (w @ c[:, m, k]))
      )
  return gains


@pytest.fixture(scope='module')
def weighted():
  """Members that some evidence has weighted."""
  p = models.members(temperature=3.0)
  return p.condition(models.inputs(2, seed=9), models.labels(2, seed=9))


CANDIDATES, TARGETS = models.inputs(6), models.inputs(4, seed=1)


@pytest.mark.parametrize('targets', [1, 2, 4])
def test_exact(weighted, targets):
  found, error = weighted.information_gain(
      CANDIDATES, TARGETS[:targets], return_error=True
  )
  expected = enumerated(weighted, CANDIDATES, TARGETS[:targets])
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  assert expected.max() > 0.01 and not error.any()


def test_pairwise_is_the_mean_over_targets(weighted):
  found = weighted.information_gain(CANDIDATES, TARGETS, pairwise=True)
  each = [enumerated(weighted, CANDIDATES, TARGETS[[t]]) for t in range(4)]
  np.testing.assert_allclose(found, np.mean(each, 0), rtol=1e-3, atol=1e-6)


def test_estimate_is_within_its_error(weighted, monkeypatch):
  monkeypatch.setattr(information, 'MAX_EXACT', 3)
  found, error = weighted.information_gain(
      CANDIDATES, TARGETS, num_samples=2000, return_error=True
  )
  expected = enumerated(weighted, CANDIDATES, TARGETS)
  assert (error > 0).all() and (error < 0.02).all()
  assert (np.abs(found - expected) < 4 * error).all()
  again = weighted.information_gain(CANDIDATES, TARGETS, num_samples=2000)
  np.testing.assert_array_equal(again, found)


def test_many_targets_are_estimated():
  """More of them than a piece has rows."""
  p = models.members(temperature=3.0)
  targets = models.inputs(150, seed=2)
  found, error = p.information_gain(
      CANDIDATES, targets, num_samples=64, return_error=True
  )
  # So many labels give the member away: all that there is to know.
  each = p.uncertainty(CANDIDATES)['epistemic']
  assert (np.abs(found - each) < 4 * error + 1e-3).all()
