"""Sets of classes that hold the label as often as promised."""

import dataclasses
import math

import numpy as np

from flax_enn.evaluation.studies.base import Predictions, Study


@dataclasses.dataclass(frozen=True)
class Conformal(Study):
  """Split conformal prediction on the probabilities averaged over the index.

  A half of the examples, drawn once, calibrates a threshold on a score of
  (x, class); of the other half, each set of the classes below it holds the
  label with probability `level` (exchangeability is all it takes). The scores:

    LAC   1 - p(class)  (Sadinle, Lei and Wasserman, arXiv:1609.00451)
    APS   mass of the classes more probable than it, and a uniform share of its
          own (Romano, Sesia and Candes, arXiv:2006.02544)
    RAPS  APS and `penalty` for each rank beyond `free_rank` (Angelopoulos et
          al., arXiv:2009.14193)

  Reported of each are the share of labels within their set (coverage) and the
  mean number of classes in a set (size).

  Attributes:
    level: share of the labels that the sets are to hold.
    penalty: of RAPS.
    free_rank: of RAPS.
  """

  level: float = 0.9
  penalty: float = 0.01
  free_rank: int = 5

  def __post_init__(self):
    if not 0 < self.level < 1:
      raise ValueError(
          f'level is {self.level}; it is a share of the labels, between 0 and 1'
      )
    if self.penalty < 0 or self.free_rank < 0:
      raise ValueError(
          f'penalty is {self.penalty} and free_rank {self.free_rank}; both are'
          ' at least 0'
      )

  def metrics(
      self, found: Predictions, reference: Predictions | None
  ) -> dict[str, float]:
    del reference
    n = len(found.y)
    # The stream of RandomState is frozen for all versions of numpy (NEP 19).
    random = np.random.RandomState(0)
    order, share = random.permutation(n), random.uniform(size=n)
    calibration, test = order[: n // 2], order[n // 2 :]
    rank = math.ceil((len(calibration) + 1) * self.level)
    if rank > len(calibration):
      raise ValueError(
          f'level {self.level} needs'
          f' {2 * math.ceil(self.level / (1 - self.level))} examples, of which'
          f' a half calibrates; there are {n}'
      )
    values = {}
    for name in ('lac', 'aps', 'raps'):
      scores = self._scores(name, found.probs, share)
      of_label = scores[np.arange(n), found.y]
      threshold = np.sort(of_label[calibration])[rank - 1]
      values[f'coverage_{name}'] = np.mean(of_label[test] <= threshold)
      values[f'size_{name}'] = (scores[test] <= threshold).sum(-1).mean()
    return {name: float(value) for name, value in values.items()}

  def _scores(
      self, name: str, probs: np.ndarray, share: np.ndarray
  ) -> np.ndarray:
    """`[M, C]` scores of each class, lower for those that are likelier."""
    if name == 'lac':
      return 1 - probs
    order = np.argsort(-probs, axis=-1, kind='stable')
    falling = np.take_along_axis(probs, order, -1)
    scores = falling.cumsum(-1) - (1 - share)[:, None] * falling
    if name == 'raps':
      ranks = np.arange(1, probs.shape[-1] + 1)
      scores += self.penalty * np.maximum(ranks - self.free_rank, 0)
    found = np.empty_like(scores)
    np.put_along_axis(found, order, scores, -1)
    return found
