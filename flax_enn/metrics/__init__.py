"""Metrics: streaming over chunks of indices and over batches."""

from flax_enn.metrics.calibration import ECE
from flax_enn.metrics.collection import Classification, Regression
from flax_enn.metrics.joint import (
    joint_nll,
    joint_nll_distinct,
    joint_nll_sampled,
    polyadic_nll,
)
from flax_enn.metrics.marginal import accuracy, brier, nll, squared_error
from flax_enn.metrics.moments import (
    ClassificationMoments,
    IndexMoments,
    RegressionMoments,
)

__all__ = [
    'ECE',
    'Classification',
    'ClassificationMoments',
    'IndexMoments',
    'Regression',
    'RegressionMoments',
    'accuracy',
    'brier',
    'joint_nll',
    'joint_nll_distinct',
    'joint_nll_sampled',
    'nll',
    'polyadic_nll',
    'squared_error',
]
