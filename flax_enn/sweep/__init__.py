"""Sweeps: a config trained once for each of many overrides.

A config file may define `sweep()`, the list of overrides:

  def sweep():
    return product({'seed': range(3), 'network.prior_scale': (0.5, 1.0, 2.0)})

An override is a dict, field -> value, with the fields as on the command line.
`launch/sweep.py` trains them; `read_rows` has what came out.
"""

from flax_enn.sweep.overrides import Override, apply, name, product, zip_
from flax_enn.sweep.results import Row, plot, read_rows, write_table
from flax_enn.sweep.runs import Run, load_runs

__all__ = [
    'Override',
    'Row',
    'Run',
    'apply',
    'load_runs',
    'name',
    'plot',
    'product',
    'read_rows',
    'write_table',
    'zip_',
]
