"""Indexers against the draws of enn's."""

import ast
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers
from tests.golden import cases

NAMES = cases.names(
    'indexers/gaussian scaled_gaussian gaussian_with_unit dirichlet ensemble'
    ' prng',
    [f'enn.networks.{name}' for name in dir(indexers) if 'Indexer' in name],
)


@pytest.fixture(params=NAMES)
def case(request):
  return cases.load_case(request.param)


def build(case):
  """Our indexer of the constructor and the arguments in the manifest."""
  text = re.sub(r'Array\((\[.*?\]).*?\)', r'\1', case.kwargs.get('repr', ''))
  pairs = re.findall(r'(\w+)=(\[.*?\]|[\d.]+)', text)
  ours = {'index_dim': 'dim', 'index_scale': 'scale', 'num_ensemble': 'size'}
  options = {ours.get(k, k): ast.literal_eval(v) for k, v in pairs}
  return getattr(indexers, case.meta['ctor'].split('.')[-1])(**options)


def keys(raw):
  return jax.random.wrap_key_data(jnp.asarray(raw), impl='threefry2x32')


def as_enn(indexer, z):
  """Our indices as enn's: a member's number, a key's two words."""
  if isinstance(indexer, indexers.PrngIndexer):
    return np.asarray(jax.random.key_data(z))
  z = np.asarray(z)
  if isinstance(indexer, indexers.EnsembleIndexer):
    members = np.argmax(z, axis=-1)
    np.testing.assert_array_equal(z, np.eye(indexer.size)[members])
    return members
  return z


def test_golden_draw(case):
  indexer = build(case)
  z = jax.vmap(indexer.draw)(keys(case['in::keys']))
  cases.assert_close(as_enn(indexer, z), case['ret::z'])


def test_golden_sample(case):
  """`sample` draws what enn's batched indexer draws from the first key.

  Except for ensembles, knowingly: enn draws members independently, so that
  some are missing and others repeated; here every round of K indices holds
  each member once.
  """
  indexer, recorded = build(case), case['ret::batch_z']
  z = as_enn(indexer, indexer.sample(batch_key(case), len(recorded)))
  if isinstance(indexer, indexers.EnsembleIndexer):
    assert len(recorded) <= indexer.size  # one round
    assert len(set(z)) == len(z)
    assert len(set(recorded)) < len(recorded)
    return
  cases.assert_close(z, recorded)


def test_golden_batch_is_draws_from_folded_keys(case):
  indexer, recorded = build(case), case['ret::batch_z']
  folded = jax.vmap(jax.random.fold_in, (None, 0))(
      batch_key(case), jnp.arange(len(recorded))
  )
  z = as_enn(indexer, jax.vmap(indexer.draw)(folded))
  cases.assert_close(z, recorded)


def test_golden_mean_index():
  case = cases.load_case('indexers/gaussian_with_unit')
  cases.assert_close(build(case).mean_index, case['ret::mean_index'])


def batch_key(case):
  return keys(case['in::keys'])[0]
