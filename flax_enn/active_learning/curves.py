"""What active learning has reached, as a table and as a plot."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import Any

from etils import epath
import numpy as np

# What a round left, see `learner`; and by priority those of each seed.
Round = Mapping[str, Any]
Results = Mapping[str, Sequence[Sequence[Round]]]


def metrics_of(*rounds: Round) -> list[str]:
  """The metrics that are shown, those of them that every round has."""
  names = 'regret', 'accuracy', 'rmse'
  return [name for name in names if all(name in found for found in rounds)]


def curves(
    results: Results, metric: str
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Labels `[rounds + 1]`, and priority -> values `[seeds, rounds + 1]`."""
  values = {
      priority: np.array([[one[metric] for one in of] for of in seeds])
      for priority, seeds in results.items()
  }
  return np.array([one['labels'] for one in _first(results)]), values


def _first(results: Results) -> Sequence[Round]:
  return next(iter(results.values()))[0]


def _rounds(results: Results) -> Iterator[Round]:
  """Every round of every seed of every priority."""
  for seeds in results.values():
    yield from itertools.chain.from_iterable(seeds)


def standard_error(values: np.ndarray) -> np.ndarray:
  """Of the mean over the first axis; 0 of a single value."""
  if len(values) < 2:
    return np.zeros(values.shape[1:])
  return values.std(0, ddof=1) / len(values) ** 0.5


def table(results: Results) -> str:
  """For each metric, a line of each priority."""
  width, lines = max(12, *map(len, results)), []
  for metric in metrics_of(*_rounds(results)):
    labels, found = curves(results, metric)
    lines.append(
        f'{metric:{width}} from {labels[0]} to {labels[-1]} labels      after'
        f' {labels[-1]}'
    )
    for priority, values in found.items():
      texts = (
          f'{of.mean():.4f} +- {standard_error(of):.4f}'
          for of in (values.mean(1), values[:, -1])
      )
      lines.append(f'{priority:{width}} {"         ".join(texts)}')
  return '\n'.join(lines)


def plot(results: Results, path: epath.Path) -> None:
  """Draws each metric against the number of labels."""
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  metrics = metrics_of(*_rounds(results))
  figure = Figure(figsize=(6.4 * len(metrics), 4.2), layout='constrained')
  FigureCanvasAgg(figure)
  axes = np.atleast_1d(figure.subplots(1, len(metrics)))
  for metric, ax in zip(metrics, axes):
    labels, found = curves(results, metric)
    for priority, values in found.items():
      mean, error = values.mean(0), standard_error(values)
      ax.plot(labels, mean, 'o-', label=priority)
      ax.fill_between(labels, mean - error, mean + error, alpha=0.2)
    ax.set(xlabel='labels', ylabel=metric)
    ax.spines[['top', 'right']].set_visible(False)
    ax.legend(frameon=False)
  with path.open('wb') as file:
    figure.savefig(file, dpi=120)
