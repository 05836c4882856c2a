"""What is gained where a model may decline to answer."""

from collections.abc import Mapping
import dataclasses
from typing import Any

import numpy as np

from flax_enn.evaluation.studies.base import Predictions, Study


@dataclasses.dataclass(frozen=True)
class Selective(Study):
  """Risk against coverage: the error rate among the most certain examples.

  Of each uncertainty the area under that curve (AURC; Geifman, Uziel and
  El-Yaniv, arXiv:1805.08206), and the risk at some coverages.

  Attributes:
    coverages: shares of the examples that are answered.
  """

  coverages: tuple[float, ...] = (0.5, 0.8, 0.95)

  def __post_init__(self):
    if not all(0 < c <= 1 for c in self.coverages):
      raise ValueError(
          f'coverages are {self.coverages}; each is a share of the examples,'
          ' above 0 and at most 1'
      )

  def metrics(
      self, found: Predictions, reference: Predictions | None
  ) -> dict[str, float]:
    del reference
    values = {}
    for name, scores in found.uncertainties.items():
      risks = risk(scores, found.wrong)
      values[f'aurc_{name}'] = float(risks.mean())
      for share in self.coverages:
        row = max(round(share * len(risks)), 1) - 1
        values[f'risk_at_{share:g}_{name}'] = float(risks[row])
    return values

  def draw(
      self,
      ax: Any,
      found: Mapping[str, Predictions],
      references: Mapping[str, Predictions],
  ) -> bool:
    from flax_enn.evaluation import plots  # which imports matplotlib

    del references
    styles = {'msp': '-', 'entropy': '--', 'mutual_information': ':'}
    for model, predictions in found.items():
      for name, scores in predictions.uncertainties.items():
        risks = risk(scores, predictions.wrong)
        ax.plot(
            np.arange(1, len(risks) + 1) / len(risks), risks, styles[name],
            color=plots.COLORS[model],
            label=f'{model}, {name.replace("_", " ")}: {risks.mean():.4f}',
        )
    ax.set(
        title='Risk against coverage (and the area below)', xlim=(0, 1),
        xlabel='share of the examples that are answered',
        ylabel='error rate among these', ylim=(0, None),
    )
    ax.legend(loc='upper left')
    return True


def risk(uncertainty: np.ndarray, wrong: np.ndarray) -> np.ndarray:
  """`[M]` error rate among the 1, 2, … M most certain of M examples.

  Where several are equally certain, each stands for the average of them.
  """
  order = np.argsort(uncertainty, kind='stable')
  _, group, size = np.unique(
      uncertainty[order], return_inverse=True, return_counts=True
  )
  mean = np.bincount(group, wrong[order].astype(float)) / size
  return np.cumsum(mean[group]) / np.arange(1, len(wrong) + 1)
