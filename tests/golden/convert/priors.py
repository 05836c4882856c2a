"""Random functions that enn has closed over."""

from typing import Any

import numpy as np

from flax_enn.checkpoints import haiku
from flax_enn.networks.priors.gp_prior import GPPrior
from tests.golden.cases import Case


def gp(
    case: Case, tag: str, before: int = 0, after: int = 0
) -> tuple[GPPrior, dict[str, Any]]:
  """A Gaussian process, and its parameters.

  Args:
    case: that it is recorded in.
    tag: of its arrays.
    before: outputs in front of its own.
    after: outputs behind its own.
  """
  (arrays,) = case.hidden(tag).values()
  params = haiku.gp_prior(arrays)
  for name in ('weights', 'bias'):
    pad = [(0, 0)] * (params[name].ndim - 1) + [(before, after)]
    params[name] = np.pad(params[name], pad)
  features, outputs = params['bias'].shape
  prior = GPPrior(
      outputs,
      features,
      # What of a range matters here is that there is one.
      gamma=(0.0, 1.0) if 'gamma' in params else float(arrays['gamma']),
      scale=float(arrays.get('scale', 1.0)),
  )
  return prior, params


def gps(
    case: Case, before: int = 0, after: int = 0
) -> tuple[GPPrior, dict[str, Any]]:
  """Many of them as one, with a leading axis of parameters."""
  found = [gp(case, tag, before, after) for tag in case.hidden_tags()]
  return found[0][0], haiku.stacked([params for _, params in found])
