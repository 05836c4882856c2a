"""enn's toy problems, to its numbers."""

import numpy as np
import pytest
import sklearn.datasets

from flax_enn.data.toy_moons import ToyMoons
from flax_enn.data.toy_regression import ToyRegression
from tests.data.reading import everything
from tests.golden import cases


def test_golden_regression():
  case = cases.load_case('data/toy_datasets')
  x, y, _ = everything(ToyRegression(), 'train')
  np.testing.assert_allclose(x, case['ret::reg_batch_x_sorted'], rtol=1e-6)
  np.testing.assert_allclose(y, case['ret::reg_batch_y_sorted'], rtol=1e-5)
  x, _, _ = everything(ToyRegression(extra_inputs=0), 'train')
  np.testing.assert_allclose(x[:, 0], case['ret::reg_x'], rtol=1e-6)


def test_golden_moons():
  """Weights are 1 there."""
  case = cases.load_case('data/toy_datasets')
  x, y, _ = everything(ToyMoons(), 'train')
  np.testing.assert_allclose(x, case['ret::moons_x_sorted'], rtol=1e-5)
  np.testing.assert_array_equal(y, case['ret::moons_y_sorted'][:, 0])
  assert (case['ret::moons_weights'] == 1).all()


@pytest.mark.parametrize('seed', [0, 3])
def test_moons_are_those_of_sklearn(seed):
  x, y = sklearn.datasets.make_moons(60, noise=0.2, random_state=seed)
  found = ToyMoons(per_class=30, noise=0.2, seed=seed).load('train')
  np.testing.assert_allclose(found.x, x, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(found.y, y)
  swapped = ToyMoons(per_class=30, noise=0.2, seed=seed, prob_swap=0.3)
  other = np.random.RandomState(seed).binomial(1, 0.3, 60)
  expected = np.where(other, 1 - y, y)
  np.testing.assert_array_equal(swapped.load('train').y, expected)
  test = swapped.load('test')
  assert not np.isin(test.x, found.x).any()
