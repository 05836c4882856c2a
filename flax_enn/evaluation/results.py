"""The results of evaluation: numbers, a table of them, and their file."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any, Self

from etils import epath
import jax
import numpy as np

from flax_enn.evaluation.eval_state import EvalState
from flax_enn.metrics import ECE
from flax_enn.run_folder import write_json

Metrics = Mapping[str, float]  # name -> value

_WIDE = 6  # metrics in a row of a table, at most

# What the table and the file leave out; all metrics go to the training curves.
HIDDEN = ('joint_nll_sampled', 'joint_nll_distinct')


@dataclasses.dataclass(frozen=True)
class Results:
  """The results on one split, or of a study, which has metrics alone.

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
    draw: of a study, what draws into matplotlib axes; see `Study.draw`.
  """

  metrics: Mapping[str, Metrics]
  tau: int = 1
  calibration: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(
      default_factory=dict
  )
  disagreement: np.ndarray | None = None
  examples: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  draw: Callable[[Any], bool] | None = None

  @classmethod
  def of_state(cls, state: EvalState, tau: int) -> Self:
    """The results of all batches, which a state has summed."""
    state = jax.device_get(state)
    examples = state.examples
    real = examples.disagreement > -np.inf
    with np.errstate(invalid='ignore'):  # The average of nothing is NaN.
      computed = {k: v.compute() for k, v in state.metrics.items()}
    return cls(
        metrics={
            name: {metric: float(value) for metric, value in values.items()}
            for name, values in computed.items()
        },
        tau=tau,
        calibration={
            name: {k: np.asarray(v) for k, v in vars(ece).items()}
            for name, metrics in state.metrics.items()
            if isinstance(ece := getattr(metrics, 'ece', None), ECE)
        },
        disagreement=None
        if state.disagreement is None
        else np.asarray(state.disagreement),
        examples=jax.tree.map(
            lambda leaf: leaf[real],
            {**examples.values, 'disagreement': examples.disagreement},
        ),
    )


def table(metrics: Mapping[str, Metrics]) -> str:
  """Lays metrics out as text: rows base and enn, and their ratio."""
  names = [name for name in metrics['enn'] if name not in HIDDEN]
  rows = [['', *names]]
  for name, values in metrics.items():
    rows.append([name, *(_number(values.get(m)) for m in names)])
  if 'base' in metrics:
    ratios = (_ratio(metrics['enn'][n], metrics['base'].get(n)) for n in names)
    rows.append(['enn/base', *ratios])
  if len(names) > _WIDE:  # too wide for a terminal
    rows = list(map(list, zip(*rows)))
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join(
      '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])])
      for row in rows
  )


def _number(value: float | None) -> str:
  return '-' if value is None else f'{value:.4f}'


def _ratio(enn: float, base: float | None) -> str:
  # A log-loss of densities has no zero to measure from.
  return f'{enn / base:.3f}' if base and 0 < base < math.inf else '-'


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
                  if k not in HIDDEN
              }
              for model, values in found.metrics.items()
          }
          for name, found in results.items()
      },
  }
  write_json(epath.Path(workdir) / 'results.json', content)
  return content


def draw_studies(
    workdir: epath.PathLike, results: Mapping[str, Results]
) -> None:
  """Writes `workdir/report-NAME.png` of each study that has a picture."""
  for name, found in results.items():
    if found.draw:
      from flax_enn.evaluation import report  # matplotlib takes its time

      report.draw_axes(epath.Path(workdir) / f'report-{name}.png', found.draw)
