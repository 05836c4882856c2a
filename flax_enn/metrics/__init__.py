"""Metrics: streaming over chunks of indices and over batches."""

from flax_enn.metrics.calibration import ECE
from flax_enn.metrics.collection import METRICS, collection
from flax_enn.metrics.joint import (
    joint_nll,
    joint_nll_distinct,
    joint_nll_sampled,
    polyadic_nll,
)
from flax_enn.metrics.marginal import accuracy, brier, nll, squared_error
from flax_enn.metrics.predictive import PredictiveStats

__all__ = [
    'ECE',
    'METRICS',
    'PredictiveStats',
    'accuracy',
    'brier',
    'collection',
    'joint_nll',
    'joint_nll_distinct',
    'joint_nll_sampled',
    'nll',
    'polyadic_nll',
    'squared_error',
]
