"""What active learning has reached, as a table and as a plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

# What a round left, see `learner`; and by priority those of each seed.
Round = Mapping[str, Any]
Results = Mapping[str, Sequence[Sequence[Round]]]


def metric_of(found: Round) -> str:
  """The metric that is shown: the accuracy, or the error of a regression."""
  return 'accuracy' if 'accuracy' in found else 'rmse'


def curves(
    results: Results,
) -> tuple[str, np.ndarray, dict[str, np.ndarray]]:
  """The metric, labels `[rounds + 1]`, priority -> `[seeds, rounds + 1]`."""
  first = next(iter(results.values()))[0]
  metric = metric_of(first[0])
  values = {
      priority: np.array([[one[metric] for one in of] for of in seeds])
      for priority, seeds in results.items()
  }
  return metric, np.array([one['labels'] for one in first]), values


def standard_error(values: np.ndarray) -> np.ndarray:
  """Of the mean over the first axis; 0 of a single value."""
  if len(values) < 2:
    return np.zeros(values.shape[1:])
  return values.std(0, ddof=1) / len(values) ** 0.5


def table(results: Results) -> str:
  """A line for each priority."""
  metric, labels, found = curves(results)
  lines = [
      f'{metric:12} from {labels[0]} to {labels[-1]} labels      after'
      f' {labels[-1]}'
  ]
  for priority, values in found.items():
    texts = (
        f'{of.mean():.4f} +- {standard_error(of):.4f}'
        for of in (values.mean(1), values[:, -1])
    )
    lines.append(f'{priority:12} {"         ".join(texts)}')
  return '\n'.join(lines)


def plot(results: Results, path: epath.Path) -> None:
  """Draws the metric against the number of labels."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  figure = Figure(figsize=(6.4, 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  ax = figure.subplots()
  metric, labels, found = curves(results)
  for priority, values in found.items():
    mean, error = values.mean(0), standard_error(values)
    ax.plot(labels, mean, 'o-', label=priority)
    ax.fill_between(labels, mean - error, mean + error, alpha=0.2)
  ax.set(xlabel='labels', ylabel=metric)
  ax.spines[['top', 'right']].set_visible(False)
  ax.legend(frameon=False)
  with path.open('wb') as file:
    figure.savefig(file, dpi=120)
