"""What came out of a sweep: rows, a table and a plot of them."""

from collections.abc import Iterable, Mapping, Sequence
import csv
import re
from typing import Any

from etils import epath
import numpy as np

from flax_enn.sweep.overrides import Override
from flax_enn.sweep.runs import Run

Row = Mapping[str, Any]  # column -> value


def read_rows(runs: Iterable[Run]) -> list[Row]:
  """A row for each finished run: what was swept, and its results.

  A metric of the run's own evaluation is in the column `enn_METRIC` or
  `base_METRIC`, that of another one in `NAME_enn_METRIC`.
  """
  rows: list[Row] = []
  for run in runs:
    results = run.results
    if results is None:
      continue
    own = 'validation' if run.config.dataset.get('holdout') else 'test'
    row: Override = {**run.override, 'step': results.pop('step'), 'split': own}
    for evaluation, models in results.items():
      prefix = '' if evaluation == own else f'{evaluation}_'
      for model, metrics in models.items():
        row |= {f'{prefix}{model}_{k}': value for k, value in metrics.items()}
    rows.append(row)
  return rows


def write_table(rows: Sequence[Row], path: epath.PathLike) -> None:
  """Writes all rows as comma-separated values."""
  fields = list(dict.fromkeys(field for row in rows for field in row))
  with epath.Path(path).open('w') as file:
    table = csv.DictWriter(file, fields, lineterminator='\n')
    table.writeheader()
    table.writerows(rows)


def plot(
    rows: Sequence[Row],
    swept: Sequence[str],
    metric: str,
    path: epath.PathLike,
) -> None:
  """Draws the ENN's metric, and the base's where there is one, as `path`.

  The first swept field of numbers but the seed is the axis, each combination of
  the others a line; over seeds there are a mean and its standard error.

  Args:
    rows: of `read_rows`.
    swept: the fields.
    metric: METRIC, or NAME.METRIC of an evaluation that is not the run's own.
    path: of the picture.

  Raises:
    ValueError: the results have no such metric.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  evaluation, _, short = metric.rpartition('.')
  prefix = f'{evaluation}_' if evaluation else ''
  if not any(f'{prefix}enn_{short}' in row for row in rows):
    matches = (re.match('(.*_)?enn_(.*)', k) for row in rows for k in row)
    known = {f'{(m[1] or "")[:-1]}.{m[2]}'.lstrip('.') for m in matches if m}
    raise ValueError(f'metric {metric}: the results have {sorted(known)}')
  numbers = [f for f in swept if all(_is_number(row.get(f)) for row in rows)]
  axis = next((f for f in numbers if f != 'seed'), (numbers or ['run'])[0])
  others = [f for f in swept if f not in (axis, 'seed')]
  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  ax = figure.subplots()
  for model, style in (('enn', '-'), ('base', ':')):
    lines: dict[str, dict[float, list[float]]] = {}
    for i, row in enumerate(rows):
      if (value := row.get(f'{prefix}{model}_{short}')) is None:
        continue
      label = ', '.join([model, *(f'{f}={row.get(f)}' for f in others)])
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
