"""Pictures of what an experiment in memory has learned of a toy problem."""

from typing import Any

import jax
import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
import numpy as np

from flax_enn.data import Loader
from flax_enn.evaluation import input_space, layout
from flax_enn.experiment import Experiment

_EXAMPLES = 400  # of the training data that are drawn, at most
_AT_ONCE = 20  # indices: what depends on none of them is computed once for all


def plot(
    experiment: Experiment,
    *,
    num_indices: int = 100,
    shown: int = 4,
    resolution: int = 72,
    seed: int = 0,
) -> Figure:
  """Draws the functions of an experiment around its training data.

  Of a regression of one number on one input (others may be constant): the data,
  some functions, their mean, and bands of two standard deviations, of the
  functions and with the noise of the likelihood. Of classes over two inputs:
  maps of the mean probabilities and of their deviation, the data, and a row of
  maps of some functions. In place of the plots of enn's `regression_data` and
  `classification_data`.

  Means and deviations are over N keys of `experiment.predict`, those of
  `jax.random.split(jax.random.key(seed), N)`; the functions are the first of
  them. A notebook shows the figure where it is the value of a cell; elsewhere
  `plot(experiment).savefig('toy.png')` writes it.

  Args:
    experiment: on data as those of `ToyRegression`, `ToyMoons` or `TwoMoons`.
    num_indices: N.
    shown: how many functions are drawn one by one, at most.
    resolution: points along each side of a map; a curve has four times as many.
    seed: of the keys.

  Raises:
    ValueError: the data are of another form, or a number is too small.
  """
  for name, value, least in (
      ('num_indices', num_indices, 1),
      ('shown', shown, 1),
      ('resolution', resolution, 2),
  ):
    if value < least:
      raise ValueError(f'{name} is {value}; it must be at least {least}')
  data, likelihood = experiment.dataset, experiment.likelihood
  x, y = Loader().reader(data, 'train', data.preprocess).some(_EXAMPLES)
  flat = isinstance(x, np.ndarray) and x.ndim == 2
  varying = input_space.varying(x) if flat else ()
  if flat and x.shape[1] == 2 and likelihood.num_classes:
    draw, size = _maps, (13, 9)
  elif len(varying) == 1 and likelihood.target.shape == (1,):
    draw, size = _curve, (9, 5)
  else:
    raise ValueError(
        f'{data} has x of the form {data.input_spec} and {likelihood}; only one'
        ' number over one input that varies, or classes over two inputs, can'
        ' be drawn'
    )
  keys = jax.random.split(jax.random.key(seed), num_indices)
  with mpl.rc_context(layout.STYLE):
    figure = plt.figure(figsize=size, dpi=100, facecolor='white')
    plt.close(figure)  # A notebook would show it at the end of the cell, too.
    draw(figure, experiment, keys, x, y, shown, resolution)
  return figure


def _curve(
    figure: Figure,
    experiment: Experiment,
    keys: jax.Array,
    x: np.ndarray,
    y: np.ndarray,
    shown: int,
    resolution: int,
) -> None:
  """The functions of one input, their mean and bands, and data."""
  grid = input_space.line(x, 4 * resolution)
  mean, variance = _moments(experiment, keys, grid)
  (axis,) = input_space.varying(x)
  (ax,) = layout.row(figure, 1)
  input_space.curve(
      ax,
      grid[:, axis],
      mean[..., 0],
      x[:, axis],
      y[:, 0],
      np.sqrt(variance.mean(0))[:, 0],
      shown,
  )


def _maps(
    figure: Figure,
    experiment: Experiment,
    keys: jax.Array,
    x: np.ndarray,
    y: np.ndarray,
    shown: int,
    resolution: int,
) -> None:
  """Mean and deviation of the probabilities above, functions below."""
  grid, extent = input_space.plane(x, resolution)
  probs, _ = _moments(experiment, keys, grid)
  probs = probs.reshape(len(keys), resolution, resolution, -1)
  # Of two classes the deviation of either; of more the root mean square.
  deviation = np.sqrt(probs.var(0).mean(-1))
  upper, lower = layout.halves(figure)
  left, right = layout.row(upper, 2)
  input_space.plane_classes(left, extent, probs.mean(0), x, y, scale=True)
  input_space.plane_spread(
      right, extent, deviation, x, y,
      title='Where the functions disagree',
      label='standard deviation of the probability',
  )
  shown = min(shown, len(keys))
  for i, ax in enumerate(layout.row(lower, shown)):
    title = f'f(x, z) at z {i + 1} of {len(keys)}'
    input_space.plane_classes(ax, extent, probs[i], x, y, title)


def _moments(experiment: Experiment, keys: jax.Array, x: np.ndarray) -> Any:
  """Mean and variance of y at each key, `[N, B, ...]`; see `Likelihood`."""
  outputs = jax.lax.map(
      lambda key: experiment.predict(x, key), keys, batch_size=_AT_ONCE
  )
  return jax.tree.map(np.asarray, experiment.likelihood.moments(outputs))
