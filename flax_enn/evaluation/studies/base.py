"""What a study is."""

import abc
from collections.abc import Mapping
import dataclasses
from typing import Any, ClassVar

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
  """Predictions for all examples of a data set, as numpy arrays.

  Attributes:
    y: `[M]` labels.
    probs: `[M, C]` averaged over the indices.
    epistemic: `[M]` mutual information of label and index, in nats; None of a
      network without an index, such as the base.
  """

  y: np.ndarray
  probs: np.ndarray
  epistemic: np.ndarray | None = None

  @property
  def uncertainties(self) -> dict[str, np.ndarray]:
    """Scores `[M]` by name, each larger where less is known.

    `msp` is the maximum softmax probability (less than 1 by how much;
    Hendrycks and Gimpel, arXiv:1610.02136), `entropy` that of probs.
    """
    logs = np.log(np.where(self.probs > 0, self.probs, 1.0))
    found = {
        'msp': 1 - self.probs.max(-1),
        'entropy': -(self.probs * logs).sum(-1),
    }
    if self.epistemic is not None:
      found['mutual_information'] = self.epistemic
    return found

  @property
  def wrong(self) -> np.ndarray:
    """`[M]` bool, whether the most probable class is not the label."""
    return self.probs.argmax(-1) != self.y


class Study(abc.ABC):
  """A frozen dataclass that computes metrics of predictions.

  Attributes:
    needs_reference: whether the predictions on the run's own evaluation data
      are asked for, too.
    needs_labels: whether labels must be those of the model's classes.
  """

  needs_reference: ClassVar[bool] = False
  needs_labels: ClassVar[bool] = True

  @abc.abstractmethod
  def metrics(
      self, found: Predictions, reference: Predictions | None
  ) -> dict[str, float]:
    """The metrics of one model on one data set, by name.

    Args:
      found: on the data of the evaluation.
      reference: on those of the run's own, where `needs_reference`.
    """

  def draw(
      self,
      ax: Any,
      found: Mapping[str, Predictions],
      references: Mapping[str, Predictions],
  ) -> bool:
    """Draws the predictions of each model; False where there is no picture."""
    del ax, found, references
    return False
