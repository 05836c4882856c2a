"""What a frozen base computes, once, for many trainings on it.

`extract` (`python -m flax_enn.features`) writes a folder that the data set
`features` reads: on it, with the backbone `stored_features` in place of the
base, a network trains without the base, to the same numbers. `Base` computes
the same for new inputs, which a predictor that was trained so takes:

  base = Base.from_run('runs/cifar10_resnet18', ['pooled'])
  predictor = Predictor.load('runs/cifar10_epinet18')  # on stored features
  base.check_fits(predictor)
  predictor.probs(base(x))

`store` writes features that something else has computed.
"""

from flax_enn.feature_cache.base import Base
from flax_enn.feature_cache.extraction import extract, store

__all__ = ['Base', 'extract', 'store']
