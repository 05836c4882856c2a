"""What is drawn of an experiment on a toy problem."""

import jax
from matplotlib import pyplot as plt
import numpy as np
import optax
import pytest

from flax_enn import L2, MLP, Ensemble, Xent
from flax_enn.data.digits import Digits
from flax_enn.data.toy_moons import ToyMoons
from flax_enn.data.toy_regression import ToyRegression
from flax_enn.evaluation import input_space
from flax_enn.experiment import Experiment
from flax_enn.extras.toy_plots import plot


def an_experiment(loss, dataset, classes):
  network = Ensemble(MLP(hiddens=(4,), classes=classes), size=3)
  return Experiment(network, loss, optax.adam(1e-2), dataset)


def functions(experiment, x, seed=0, n=5):
  """Mean of y `[N, B, C]` at the same keys, one after the other."""
  keys = jax.random.split(jax.random.key(seed), n)
  outputs = [experiment.predict(np.float32(x), key) for key in keys]
  mean, _ = experiment.likelihood.moments(np.stack(outputs))
  return np.asarray(mean)


@pytest.mark.parametrize('seed', [0, 1])
def test_curves_of_a_regression(seed):
  experiment = an_experiment(L2(), ToyRegression(), 1)
  experiment.train(2)
  figure = plot(experiment, num_indices=5, shown=2, resolution=6, seed=seed)
  (ax,) = figure.axes
  *some, mean, data = ax.lines
  assert len(some) == 2 and len(ax.collections) == 2
  grid = mean.get_xdata()
  assert len(grid) == 24 and grid[0] < 0 and grid[-1] > 1.5
  x = np.stack([grid, np.ones(24)], axis=1)  # an input is always 1
  expected = functions(experiment, x, seed)[..., 0]
  close = {'rtol': 1e-4, 'atol': 1e-5}
  np.testing.assert_allclose(mean.get_ydata(), expected.mean(0), **close)
  for line, function in zip(some, expected):
    np.testing.assert_allclose(line.get_ydata(), function, **close)
  train = ToyRegression().load('train')
  np.testing.assert_allclose(
      data.get_xydata(), np.column_stack([train.x[:, 0], train.y])
  )
  # Two deviations of the functions, and with those of the noise.
  std = expected.std(0)
  for band, width in zip(ax.collections, (np.hypot(std, 0.1), std)):
    edges = band.get_paths()[0].vertices
    for edge in (expected.mean(0) - 2 * width, expected.mean(0) + 2 * width):
      near = np.abs(edges[:, None] - np.stack([grid, edge], 1)).max(-1).min(0)
      assert near.max() < 1e-4
  assert not plt.get_fignums()


def test_maps_of_two_moons():
  experiment = an_experiment(Xent(), ToyMoons(), 2)
  experiment.train(2)
  figure = plot(experiment, num_indices=5, shown=2, resolution=6)
  mean, deviation, *others = figure.axes
  maps = [ax for ax in others if ax.images]
  assert len(maps) == 2 and len(others) == 4  # and two bars
  left, right, low, high = mean.images[0].get_extent()
  x = np.stack(
      np.meshgrid(np.linspace(left, right, 6), np.linspace(low, high, 6)), -1
  )
  probs = functions(experiment, x.reshape(-1, 2)).reshape(5, 6, 6, 2)

  def colors(p):
    return 1 - 0.75 * (1 - p @ input_space.CLASSES[:2])

  for ax, p in zip((mean, *maps), (probs.mean(0), *probs)):
    np.testing.assert_allclose(ax.images[0].get_array(), colors(p), atol=1e-5)
    assert len(ax.collections[0].get_offsets()) == 20
  found = deviation.images[0].get_array()
  np.testing.assert_allclose(found, probs[..., 1].std(0), atol=1e-5)
  train = ToyMoons().load('train')
  np.testing.assert_allclose(deviation.collections[0].get_offsets(), train.x)


def test_what_cannot_be_drawn():
  experiment = an_experiment(Xent(), Digits(), 10)
  for options, says in (
      ({'num_indices': 0}, 'num_indices is 0; it must be at least 1'),
      ({'shown': 0}, 'shown is 0; it must be at least 1'),
      ({'resolution': 1}, 'resolution is 1; it must be at least 2'),
      ({}, r'Digits.* has x of the form .*; only one number over one input'),
  ):
    with pytest.raises(ValueError, match=says):
      plot(experiment, **options)
