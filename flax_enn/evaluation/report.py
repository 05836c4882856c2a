"""A picture of what evaluation found, for what the data allow to be shown."""

from collections.abc import Callable
import io
from typing import Any

from etils import epath
import jax
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
import numpy as np

from flax_enn.data import Dataset
from flax_enn.evaluation import panels
from flax_enn.evaluation.results import Results
from flax_enn.files import write_file

Predict = Callable[[Any], np.ndarray]

_COLUMNS = 8  # of images
_GRID = 72  # points along each side of a map
_POINTS = 400  # data points on a map or beside a curve
_STYLE = {
    'axes.edgecolor': '#adb5bd',
    'axes.labelcolor': panels.INK,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlecolor': panels.INK,
    'axes.titlelocation': 'left',
    'axes.titlesize': 11,
    'axes.titleweight': 'bold',
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'legend.frameon': False,
    'text.color': panels.INK,
    'xtick.color': '#868e96',
    'ytick.color': '#868e96',
}


def draw(
    workdir: epath.PathLike,
    results: Results,
    dataset: Dataset,
    predict: Predict,
) -> None:
  """Writes `workdir/report.png`. To be called on every host.

  Args:
    workdir: folder of the run.
    results: what `Evaluator` found.
    dataset: what it was found on.
    predict: of `[B, ...]` inputs, the `[N, B, C]` probabilities (or values of
      f(x, z)) that some indices give; from `Evaluator.predict`.
  """
  with matplotlib.rc_context(_STYLE):
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.04)
    figure = Figure(dpi=120, layout=layout, facecolor='white')
    FigureCanvasAgg(figure)
    if results.task == 'regression':
      _regression(figure, results, dataset, predict)
    else:
      _classification(figure, results, dataset, predict)
    buffer = io.BytesIO()
    figure.savefig(buffer, format='png')
  write_file(epath.Path(workdir) / 'report.png', buffer.getvalue())


def _classification(
    figure: Figure, results: Results, dataset: Dataset, predict: Predict
) -> None:
  """Numbers above; below them images, or maps of a plane."""
  shape = dataset.shape
  # Without an index there is nothing to disagree on.
  agree = results.examples['disagreement'].max(initial=0) < 1e-5
  if agree:
    figure.set_size_inches(9, 4.3)
    top = figure
  elif len(shape) == 3 and shape[-1] in (1, 3):
    figure.set_size_inches(13, 9)
    top, bottom = _halves(figure)
    _images(bottom, results, predict)
  elif shape == (2,):
    figure.set_size_inches(13, 9)
    top, bottom = _halves(figure)
    _plane(bottom, dataset, predict)
  else:
    figure.set_size_inches(13, 4.3)
    top = figure
  grid = top.add_gridspec(2, 2 if agree else 3, height_ratios=(3, 1))
  upper = top.add_subplot(grid[0, 0])
  lower = top.add_subplot(grid[1, 0], sharex=upper)
  panels.reliability(upper, lower, results.calibration, results.metrics)
  middle = top.add_subplot(grid[:, 1])
  panels.log_losses(middle, results.metrics, results.tau)
  if results.disagreement is not None and not agree:
    right = top.add_subplot(grid[:, 2])
    panels.disagreement(right, results.disagreement, dataset.classes)


def _halves(figure: Figure) -> tuple[SubFigure, SubFigure]:
  halves = figure.subfigures(2, squeeze=False, height_ratios=(1, 1.1))
  return halves[0, 0], halves[1, 0]


def _images(figure: SubFigure, results: Results, predict: Predict) -> None:
  """The examples that the indices disagree on most, with their votes."""
  examples = results.examples
  shown = min(len(examples['y']), 2 * _COLUMNS)
  said = predict(examples['x'][:shown])
  figure.suptitle(
      'Images on which the indices disagree most. Bar: the classes that'
      f' {len(said)} indices choose, the label’s own in green.',
      x=0.01, ha='left', fontweight='bold', fontsize=11,
  )
  axes = figure.subplots(
      4, _COLUMNS, gridspec_kw={'height_ratios': (1, 0.14, 1, 0.14)}
  )
  for ax in axes.flat:
    ax.axis('off')
  for i in range(shown):
    row, column = divmod(i, _COLUMNS)
    label = int(examples['y'][i])
    picture, bar = axes[2 * row : 2 * row + 2, column]
    panels.image(picture, examples['x'][i])
    title = f'label {label}'
    if 'base' in examples:
      base = examples['base'][i]
      title += f', base says {base.argmax()} ({base.max():.2f})'
    picture.set_title(title, fontsize=8, fontweight='normal', loc='center')
    panels.votes(bar, said[:, i], label)


def _plane(figure: SubFigure, dataset: Dataset, predict: Predict) -> None:
  """Maps of the mean prediction and of the disagreement over two inputs."""
  x, y = _examples(dataset, 'train')
  low, high = _range(x, 0.35)
  sides = [np.linspace(a, b, _GRID) for a, b in zip(low, high)]
  points = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2).astype(x.dtype)
  said = predict(points)
  extent = (low[0], high[0], low[1], high[1])
  mean = said.mean(0)
  entropy = -np.log(np.maximum(said, 1e-30))
  spread = _entropy(mean) - (said * entropy).sum(-1).mean(0)
  left, right = figure.subplots(1, 2)
  panels.plane_classes(left, extent, mean.reshape(_GRID, _GRID, -1), x, y)
  panels.plane_disagreement(
      right, extent, np.maximum(spread, 0).reshape(_GRID, _GRID), x, y
  )


def _regression(
    figure: Figure, results: Results, dataset: Dataset, predict: Predict
) -> None:
  """Log-losses, and for one input and one output the functions themselves."""
  if dataset.shape != (1,) or dataset.classes != 1:
    figure.set_size_inches(5.5, 4.6)
    panels.log_losses(figure.subplots(), results.metrics, results.tau)
    return
  figure.set_size_inches(13, 5)
  left, right = figure.subplots(1, 2, width_ratios=(2, 1))
  x, y = _examples(dataset, 'train')
  low, high = _range(x, 0.25)
  grid = np.linspace(low, high, 4 * _GRID).astype(x.dtype)
  said = predict(grid)[..., 0]
  panels.curve(left, grid[:, 0], said, x[:, 0], y[:, 0], dataset.noise_std)
  panels.log_losses(right, results.metrics, results.tau)


def _examples(dataset: Dataset, split: str) -> tuple[np.ndarray, np.ndarray]:
  """At most `_POINTS` of the examples, evenly spread over the split."""
  source = dataset.source(split)
  rows = np.unique(np.linspace(0, len(source) - 1, _POINTS).astype(int))
  elements = [source[int(i)] for i in rows]
  return jax.tree.map(
      lambda *leaves: np.stack(leaves),
      *((np.asarray(e['x']), np.asarray(e['y'])) for e in elements),
  )


def _range(x: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
  """The box around `[B, D]` points, wider by a part of its sides."""
  low, high = x.min(0), x.max(0)
  return low - margin * (high - low), high + margin * (high - low)


def _entropy(probs: np.ndarray) -> np.ndarray:
  return -(probs * np.log(np.maximum(probs, 1e-30))).sum(-1)
