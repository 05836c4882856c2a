"""Studies: what the predictions on a data set are good for, one file each.

A study is named in an evaluation, beside its data:

  config.evals.letters = {
      'study': {'name': 'out_of_distribution'},
      'dataset': {'name': 'arrays', 'path': 'letters.npz'},
  }
"""

from flax_enn.evaluation.studies.base import Predictions, Study
from flax_enn.evaluation.studies.conformal import Conformal
from flax_enn.evaluation.studies.out_of_distribution import OutOfDistribution
from flax_enn.evaluation.studies.selective import Selective

__all__ = [
    'Conformal', 'OutOfDistribution', 'Predictions', 'Selective', 'Study',
]  # fmt: skip
