"""Metrics by name, as `clu` collections that merge over batches.

A likelihood lists the names of its metrics. With the class that `collection`
returns, `single_from_model_output(predictive=…, y=…, mask=…)` has those of one
batch, `a.merge(b)` those of two, `a.compute()` a dict of their values.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

from clu import metrics

from flax_enn.metrics import joint, marginal
from flax_enn.metrics.calibration import ECE


def _mean(
    metric: Callable[..., Any], average: type[metrics.Average] = metrics.Average
) -> type[metrics.Metric]:
  """The masked average of an un-reduced metric."""
  return average.from_fun(metric)


METRICS: dict[str, type[metrics.Metric]] = {
    'accuracy': _mean(marginal.accuracy),
    'rmse': _mean(marginal.squared_error, marginal.RootAverage),
    'nll': _mean(marginal.nll),
    'joint_nll': _mean(joint.joint_nll),
    'joint_nll_sampled': _mean(joint.joint_nll_sampled),
    'joint_nll_distinct': _mean(joint.joint_nll_distinct),
    'ece': ECE,
    'brier': _mean(marginal.brier),
}


@functools.cache
def collection(names: Sequence[str]) -> type[metrics.Collection]:
  """The metrics of these names as one collection.

  >>> values = collection(('nll',)).single_from_model_output(
  ...     predictive=predictive, y=batch.y, mask=batch.mask
  ... )
  >>> values.compute()['nll'].round(2)
  Array(0.75, dtype=float32)

  Args:
    names: keys of `METRICS`, a tuple.
  """
  if unknown := sorted(set(names) - set(METRICS)):
    known = ', '.join(sorted(METRICS))
    raise ValueError(f'there are no metrics {unknown}; known: {known}')
  return metrics.Collection.create(**{name: METRICS[name] for name in names})
