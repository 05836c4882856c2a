"""The results of evaluation: numbers, a table of them, and their file."""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

from etils import epath
import numpy as np

from flax_enn.run_folder import write_json

Metrics = Mapping[str, float]  # name -> value

# What the table and the file show; all metrics go to the training curves.
SHOWN = ('accuracy', 'rmse', 'nll', 'joint_nll', 'ece', 'brier')


@dataclasses.dataclass(frozen=True)
class Results:
  """The results on one split.

  Attributes:
    metrics: values by name, for `base` (where there is one) and `enn`.
    tau: number of labels in the joint predictions.
    calibration: of each classifier, `count`, `confidence` and `correct`
      (`[bins]` sums, see `metrics.ECE`).
    disagreement: `[2, bins]` number of examples over disagreement, see
      `EvalState`. None where there is no largest value.
    examples: of those the indices disagree on most, in falling order: `x`, `y`,
      `id`, `disagreement`, and the mean predictions `[k, C]` as `enn` and
      `base`.
  """

  metrics: Mapping[str, Metrics]
  tau: int
  calibration: Mapping[str, Mapping[str, np.ndarray]]
  disagreement: np.ndarray | None
  examples: Mapping[str, Any]


def table(results: Results) -> str:
  """Lays the metrics out as text: rows base and enn, and their ratio."""
  metrics = results.metrics
  names = [name for name in SHOWN if name in metrics['enn']]
  rows = [['', *names]]
  for name, values in metrics.items():
    rows.append([name, *(f'{values[m]:.4f}' for m in names)])
  if 'base' in metrics:
    ratios = (_ratio(metrics['enn'][n], metrics['base'][n]) for n in names)
    rows.append(['enn/base', *ratios])
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
      for row in rows
  )


def _ratio(enn: float, base: float) -> str:
  # A log-loss of densities has no zero to measure from.
  return f'{enn / base:.3f}' if base > 0 and math.isfinite(base) else '-'


def write_results(
    workdir: epath.PathLike, step: int, results: Mapping[str, Results]
) -> dict[str, Any]:
  """Writes `workdir/results.json` atomically, from one process.

  Args:
    workdir: folder of the run.
    step: training step that was evaluated.
    results: by the name of the evaluation: `test`, `validation` …

  Returns:
    What the file holds: `{'step': step, NAME: {'base': {...}, 'enn': {...}}}`.
    A value that is not finite is None, which JSON can hold.
  """
  content = {
      'step': int(step),
      **{
          name: {
              model: {
                  k: v if math.isfinite(v) else None
                  for k, v in values.items()
                  if k in SHOWN
              }
              for model, values in found.metrics.items()
          }
          for name, found in results.items()
      },
  }
  write_json(epath.Path(workdir) / 'results.json', content)
  return content
