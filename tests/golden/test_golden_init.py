"""What parameters start from: their mean and deviation against enn's.

enn's are over 32 keys. What starts from one draw for all keys, as the means of
Bayes by backprop do, is left out.
"""

import jax
import numpy as np
import pytest

from tests.golden import cases, convert

NAMES = [
    name
    for name, meta in cases.manifest().items()
    if meta['ctor'] in convert.NETWORKS and meta.get('init_stats')
]
OF_ONE_DRAW = {'hyper_fn/diagonal_linear::b'}
KEYS = 32


def constants(case, statistic):
  """Parameters that each hold what is recorded of them."""
  stats = case.meta['init_stats']
  return {
      module: {
          name: np.full(leaf.shape, stats[f'{module}::{name}'][statistic])
          if f'{module}::{name}' not in OF_ONE_DRAW
          else np.full(leaf.shape, np.nan)
          for name, leaf in leaves.items()
      }
      for module, leaves in case.params().items()
  }


@pytest.mark.slow
@pytest.mark.parametrize('name', NAMES)
def test_golden_initial_parameters(name):
  case = cases.load_case(name)
  ours = convert.NETWORKS[case.meta['ctor']](case)
  z = jax.tree.map(lambda leaf: leaf[0], ours.index(case['z']))
  keys = jax.random.split(jax.random.key(0), 8 * KEYS)

  @jax.jit
  @jax.vmap
  def initial(key):
    rngs = {'params': key, 'frozen': key}
    return ours.network.init(rngs, ours.x, z)['params']

  def check(leaf, mean, deviation):
    if np.isnan(mean).any():
      return
    mean, deviation = mean.flat[0], deviation.flat[0]
    n = KEYS * leaf[0].size
    assert abs(leaf.mean() - mean) <= 5 * deviation / n**0.5 + 1e-5
    assert abs(leaf.std() - deviation) <= 5 * deviation / (2 * n) ** 0.5 + 1e-5

  jax.tree.map(
      check,
      jax.tree.map(np.asarray, initial(keys)),
      *(ours.convert(constants(case, statistic)) for statistic in (0, 1)),
  )
