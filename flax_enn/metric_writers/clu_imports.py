"""CLU without TensorFlow, whose import takes longer than a small run.

CLU imports it for one of its writers, which only a workdir in a bucket needs.
"""

import importlib
import sys
import types
from typing import Any

_WRITER = 'clu.metric_writers.summary_writer'


def metric_writers() -> Any:
  """The module `clu.metric_writers`."""
  if 'clu.metric_writers' not in sys.modules:
    sys.modules[_WRITER] = later = types.ModuleType(_WRITER)
    vars(later)['SummaryWriter'] = _summary_writer
    try:
      return importlib.import_module('clu.metric_writers')
    finally:
      del sys.modules[_WRITER]
  return importlib.import_module('clu.metric_writers')


def periodic_actions() -> Any:
  """The module `clu.periodic_actions`."""
  metric_writers()
  return importlib.import_module('clu.periodic_actions')


def _summary_writer(*args: Any, **kwargs: Any) -> Any:
  """CLU's `SummaryWriter`, imported when one is made."""
  return importlib.import_module(_WRITER).SummaryWriter(*args, **kwargs)
