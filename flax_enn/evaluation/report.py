"""A picture of the results, for what the data allow to be shown."""

from collections.abc import Callable, Generator
import contextlib
import io
from typing import Any

from etils import epath
import jax
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
import numpy as np

from flax_enn.evaluation import input_space, layout, plots
from flax_enn.evaluation.results import Results
from flax_enn.inference import Predictor
from flax_enn.model import Model
from flax_enn.run_folder import atomic_write

Points = Callable[[], tuple[np.ndarray, np.ndarray]]

_COLUMNS = 8  # of images
_GRID = 72  # points along each side of a map


def draw(
    workdir: epath.PathLike,
    results: Results,
    predictor: Predictor,
    points: Points,
) -> None:
  """Writes `workdir/report.png`. To be called on every process.

  Args:
    workdir: folder of the run.
    results: of an evaluation.
    predictor: of the model that was evaluated, with some of its indices.
    points: returns some training examples, `[B, ...]` inputs and targets.
  """
  with _figure(epath.Path(workdir) / 'report.png') as figure:
    if results.disagreement is None:
      _regression(figure, results, predictor, points)
    else:
      _classification(figure, results, predictor, points)


def draw_axes(path: epath.Path, draw: Callable[[Any], bool]) -> None:
  """Writes what `draw` draws into one pair of axes, if it does."""
  with _figure(path) as figure:
    figure.set_size_inches(7, 5)
    if not draw(*layout.row(figure, 1)):
      figure.clear()


@contextlib.contextmanager
def _figure(path: epath.Path) -> Generator[Figure]:
  """A figure in the style of reports, which is written unless it is empty."""
  with matplotlib.rc_context(layout.STYLE):
    figure = Figure(dpi=120, facecolor='white')
    canvas = FigureCanvasAgg(figure)
    yield figure
    if figure.get_children()[1:]:  # more than its background
      buffer = io.BytesIO()
      canvas.print_png(buffer)  # savefig would draw everything twice
      atomic_write(path, buffer.getvalue())


def _classification(
    figure: Figure,
    results: Results,
    predictor: Predictor,
    points: Points,
) -> None:
  """Numbers above; below them images, or maps of a plane."""
  shape = _shape(predictor.model)
  # Without an index there is nothing to disagree on.
  agree = results.examples['disagreement'].max(initial=0) < 1e-5
  if agree:
    figure.set_size_inches(9, 4.3)
    top = figure
  elif len(shape) == 3 and shape[-1] in (1, 3):
    figure.set_size_inches(13, 9)
    top, bottom = layout.halves(figure)
    _images(bottom, results, predictor)
  elif shape == (2,):
    figure.set_size_inches(13, 9)
    top, bottom = layout.halves(figure)
    _plane(bottom, predictor, points)
  else:
    figure.set_size_inches(13, 4.3)
    top = figure
  grid = layout.grid(top, 2, 2 if agree else 3, height_ratios=(3, 1))
  upper = top.add_subplot(grid[0, 0])
  lower = top.add_subplot(grid[1, 0], sharex=upper)
  plots.reliability(upper, lower, results.calibration, results.metrics)
  middle = top.add_subplot(grid[:, 1])
  plots.log_losses(middle, results.metrics, results.tau)
  if results.disagreement is not None and not agree:
    right = top.add_subplot(grid[:, 2])
    classes = predictor.model.likelihood.outputs
    plots.disagreement(right, results.disagreement, classes)


def _moments(predictor: Predictor, x: Any) -> Any:
  """Mean and variance of y at each index, `[N, B, ...]`; see `Likelihood`."""
  moments = predictor.model.likelihood.moments(predictor.logits(x))
  return jax.tree.map(np.asarray, moments)


def _shape(model: Model) -> tuple[int, ...]:
  """Of one x; empty where x is a tree of arrays."""
  spec = model.input_spec
  return spec.shape if isinstance(spec, jax.ShapeDtypeStruct) else ()


def _images(
    figure: SubFigure, results: Results, predictor: Predictor
) -> None:
  """The examples that the indices disagree on most, with their votes."""
  examples = results.examples
  shown = min(len(examples['y']), 2 * _COLUMNS)
  probs, _ = _moments(predictor, examples['x'][:shown])
  figure.suptitle(
      'Images on which the indices disagree most. Bar: the classes that'
      f' {len(probs)} indices choose, the label’s own in green.',
      x=0.01, ha='left', fontweight='bold', fontsize=11,
  )
  grid = figure.add_gridspec(
      5, _COLUMNS, height_ratios=(1, 0.14, 0.06, 1, 0.14),
      wspace=0.08, hspace=0.2,
      left=0.01, right=0.99, bottom=0.02, top=0.86,
  )
  for i in range(shown):
    row, column = divmod(i, _COLUMNS)
    label = int(examples['y'][i])
    picture, bar = (
        figure.add_subplot(grid[3 * row + part, column]) for part in (0, 1)
    )
    plots.image(picture, examples['x'][i])
    picture.axis('off')
    title = f'label {label}'
    if 'base' in examples:
      base = examples['base'][i]
      title += f', base says {base.argmax()} ({base.max():.2f})'
    picture.set_title(title, fontsize=8, fontweight='normal', loc='center')
    plots.votes(bar, probs[:, i], label)


def _plane(figure: SubFigure, predictor: Predictor, points: Points) -> None:
  """Maps of the mean prediction and of the disagreement over two inputs."""
  x, y = points()
  grid, extent = input_space.plane(x, _GRID)
  probs, _ = _moments(predictor, grid)
  mean = probs.mean(0)
  spread = _entropy(mean) - _entropy(probs).mean(0)
  left, right = layout.row(figure, 2)
  input_space.plane_classes(left, extent, mean.reshape(_GRID, _GRID, -1), x, y)
  input_space.plane_spread(
      right, extent, np.maximum(spread, 0).reshape(_GRID, _GRID), x, y
  )


def _regression(
    figure: Figure,
    results: Results,
    predictor: Predictor,
    points: Points,
) -> None:
  """Log-losses, and for one input and one output the functions themselves."""
  model = predictor.model
  plain = len(_shape(model)) == 1 and model.likelihood.target.shape == (1,)
  found = points() if plain else None
  # Inputs that are the same everywhere, such as ones, are no axis.
  axes = input_space.varying(found[0]) if found else ()
  if not found or len(axes) != 1:
    figure.set_size_inches(5.5, 4.6)
    (ax,) = layout.row(figure, 1)
    plots.log_losses(ax, results.metrics, results.tau)
    return
  figure.set_size_inches(13, 5)
  left, right = layout.row(figure, 2, width_ratios=(2, 1))
  x, y = found
  grid = input_space.line(x, 4 * _GRID)
  mean, variance = _moments(predictor, grid)
  noise_std = np.sqrt(variance.mean(0))[:, 0]
  (axis,) = axes
  input_space.curve(
      left, grid[:, axis], mean[..., 0], x[:, axis], y[:, 0], noise_std
  )
  plots.log_losses(right, results.metrics, results.tau)


def _entropy(probs: np.ndarray) -> np.ndarray:
  return -(probs * np.log(np.maximum(probs, 1e-30))).sum(-1)
