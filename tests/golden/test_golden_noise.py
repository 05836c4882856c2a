"""Noise on (id, index) against enn's, where both define the same.

Known differences, each on purpose:

- A PRNG index: enn draws one weight per row of the batch; here a weight hangs
  on the example's id, so there is nothing to compare.
- `ScaledGaussianIndexer(scale)`: enn's exponential weights have mean scale^2
  and its target noise standard deviation scale·std; here 1 and std.
- `GaussianWithUnitIndexer`: enn's Bernoulli weights project the constant entry
  too, so that an example keeps a sign whatever the index (enn warns that they
  "may not be correct"); here the constant is left out.
"""

import jax
import numpy as np
import pytest

from flax_enn import indexers, losses
from flax_enn.core import Batch
from tests.golden import cases

SCALE = 2.0
LAWS = {
    'ensemble': indexers.EnsembleIndexer(4),
    'gaussian': indexers.GaussianIndexer(5),
    'scaled_gaussian': indexers.ScaledGaussianIndexer(5, SCALE),
    'gaussian_with_unit': indexers.GaussianWithUnitIndexer(5),
}


def batch_and_index(case, law):
  y = case['in::y'].astype(np.float32)
  ones = np.ones(len(y), np.float32)
  batch = Batch(case['in::x'], y, ones, case['in::data_index'][:, 0], ones)
  z = case[f'ret::{law}::z']
  if law == 'ensemble':
    z = jax.nn.one_hot(z, LAWS[law].size)
  return batch, z


@pytest.mark.parametrize(
    ('law', 'distribution', 'factor'),
    [
        *[(law, 'none', 1) for law in LAWS],
        ('ensemble', 'exponential', 1),
        ('ensemble', 'bernoulli', 1),
        ('ensemble', 'poisson', 1),
        ('ensemble', 'uniform', 1),
        ('gaussian', 'exponential', 1),
        ('gaussian', 'bernoulli', 1),
        ('scaled_gaussian', 'exponential', SCALE**2),
        ('scaled_gaussian', 'bernoulli', 1),
    ],
)
def test_golden_bootstrap(law, distribution, factor):
  case = cases.load_case('data_noise/bootstrap')
  batch, z = batch_and_index(case, law)
  noise = losses.Bootstrap(distribution, seed=3)
  expected = case[f'ret::{law}::{distribution}'][:, 0]
  weight = noise(batch, z, LAWS[law]).weight
  cases.assert_close(weight * factor, expected)


@pytest.mark.parametrize(
    ('law', 'factor'),
    [
        ('ensemble', 1),
        ('gaussian', 1),
        ('scaled_gaussian', SCALE),
        ('gaussian_with_unit', 1),
    ],
)
def test_golden_target_noise(law, factor):
  case = cases.load_case('data_noise/gaussian_target')
  batch, z = batch_and_index(case, law)
  noise = losses.TargetNoise(0.5, seed=3)
  shift = noise(batch, z, LAWS[law]).y - batch.y
  cases.assert_close(batch.y + shift * factor, case[f'ret::{law}::y'])
