"""Whether uncertainty tells other data from those of the run."""

import dataclasses
from typing import ClassVar

import numpy as np

from flax_enn.evaluation.studies.base import Predictions, Study


@dataclasses.dataclass(frozen=True)
class OutOfDistribution(Study):
  """Detects the data of the evaluation among those of the run's own.

  Of each uncertainty: the area under the ROC curve (0.5 where it tells
  nothing), the area under the precision-recall curve with the other data as
  positives, and the share of the other data that pass where 95 % of the run's
  own do (FPR95). Their labels are of no influence.
  """

  needs_reference: ClassVar[bool] = True
  needs_labels: ClassVar[bool] = False

  def metrics(
      self, found: Predictions, reference: Predictions | None
  ) -> dict[str, float]:
    from sklearn import metrics  # takes a second to import

    assert reference is not None
    values = {}
    own = reference.uncertainties
    for name, other in found.uncertainties.items():
      scores = np.concatenate([own[name], other])
      outside = np.repeat([0, 1], [len(own[name]), len(other)])
      threshold = np.quantile(own[name], 0.95, method='higher')
      values |= {
          f'auroc_{name}': metrics.roc_auc_score(outside, scores),
          f'aupr_{name}': metrics.average_precision_score(outside, scores),
          f'fpr95_{name}': np.mean(other <= threshold),
      }
    return {name: float(value) for name, value in values.items()}
