"""The metrics of a task, as `clu` collections that merge over batches.

`Classification.single_from_model_output(moments=…, y=…, mask=…)` are those of
one batch, `a.merge(b)` those of two, `a.compute()` a dict of their values.
"""

from collections.abc import Callable
from typing import Any

from clu import metrics

from flax_enn.metrics import joint, marginal
from flax_enn.metrics.calibration import ECE


def _mean(
    metric: Callable[..., Any], average: type[metrics.Average] = metrics.Average
) -> type[metrics.Metric]:
  """The masked average of an un-reduced metric."""
  return average.from_fun(metric)


Classification = metrics.Collection.create(
    accuracy=_mean(marginal.accuracy),
    nll=_mean(marginal.nll),
    joint_nll=_mean(joint.joint_nll),
    joint_nll_sampled=_mean(joint.joint_nll_sampled),
    joint_nll_distinct=_mean(joint.joint_nll_distinct),
    ece=ECE,
    brier=_mean(marginal.brier),
)

Regression = metrics.Collection.create(
    rmse=_mean(marginal.squared_error, marginal.RootAverage),
    nll=_mean(marginal.nll),
    joint_nll=_mean(joint.joint_nll),
    joint_nll_distinct=_mean(joint.joint_nll_distinct),
)
