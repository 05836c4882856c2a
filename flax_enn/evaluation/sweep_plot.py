"""The plot of a sweep: a metric against what was swept."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
import numpy as np


def draw(
    rows: Sequence[Mapping[str, Any]],
    swept: Sequence[str],
    metric: str,
    path: epath.PathLike,
) -> None:
  """Draws the ENN's metric, and the base's where there is one, as `path`.

  The first swept field of numbers but the seed is the axis, each combination of
  the others a line; over seeds there are a mean and its standard error.

  Args:
    rows: results, with the swept fields and `enn_METRIC`.
    swept: the fields.
    metric: name of the metric.
    path: of the picture.

  Raises:
    ValueError: the results have no such metric.
  """
  if not any(f'enn_{metric}' in row for row in rows):
    known = sorted({k[4:] for row in rows for k in row if k[:4] == 'enn_'})
    raise ValueError(f'--metric={metric}: the results have {known}')
  numbers = [f for f in swept if all(_is_number(row.get(f)) for row in rows)]
  axis = next((f for f in numbers if f != 'seed'), (numbers or ['run'])[0])
  others = [f for f in swept if f not in (axis, 'seed')]
  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  ax = figure.subplots()
  for who, style in (('enn', '-'), ('base', ':')):
    lines: dict[str, dict[float, list[float]]] = {}
    for i, row in enumerate(rows):
      if (value := row.get(f'{who}_{metric}')) is None:
        continue
      label = ', '.join([who, *(f'{f}={row.get(f)}' for f in others)])
      at = lines.setdefault(label, {})
      at.setdefault(float(row.get(axis, i)), []).append(value)
    for label, points in sorted(lines.items()):
      x = sorted(points)
      means = [np.mean(points[at]) for at in x]
      errors = [_standard_error(points[at]) for at in x]
      ax.errorbar(x, means, errors, label=label, fmt=f'o{style}', capsize=3)
  places = sorted({float(row.get(axis, i)) for i, row in enumerate(rows)})
  if places[0] > 0 and places[-1] / places[0] > 10:
    ax.set_xscale('log')
  ax.set(xlabel=axis, ylabel=metric)
  ax.spines[['top', 'right']].set_visible(False)
  ax.legend(frameon=False)
  with epath.Path(path).open('wb') as file:
    figure.savefig(file, dpi=120)


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


def _standard_error(values: Sequence[float]) -> float:
  if len(values) < 2:
    return 0.0
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))
