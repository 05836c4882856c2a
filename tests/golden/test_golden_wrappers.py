"""Networks of networks against enn's: heads on bases, scaled, centred."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.combined import Combined
from flax_enn.networks.rescaled import Rescaled
from flax_enn.sampling import over_index
from tests.golden import cases, convert


def test_golden_indices_of_many_keys():
  """`make_batch_fwd`: enn splits a key where `Indexer.sample` folds it."""
  case = cases.load_case('utils/make_batch_fwd')
  ours = convert.mlp.epinet_of_mlp(case)
  keys = jax.random.split(
      jax.random.key(case.kwargs['seed']), case.kwargs['num_enn_samples']
  )
  indices = jax.vmap(ours.network.indexer.draw)(keys)
  cases.assert_close(indices, case['ret::indices'])
  params = ours.variables['params']
  preds = over_index(lambda z: ours.apply(params, z).preds, indices)
  cases.assert_close(preds, case['ret::logits'])


def combined(case: cases.Case) -> convert.Converted:
  """A head of BERT, combined with what BERT computes.

  That is recorded by itself, on the same inputs and parameters.
  """
  base = cases.load_case('bert/bert_eval')
  for name in ('in::token_ids', 'in::segment_ids', 'in::input_mask'):
    np.testing.assert_array_equal(base[name], case[name])
  jax.tree.map(
      np.testing.assert_array_equal,
      {k: v for k, v in case.params().items() if k.startswith('BERT')},
      base.params(),
  )
  pooled = jnp.asarray(base['out::preds'][0])
  arrays = {**case.arrays, 'in::x': pooled}
  depth = len(convert.hiddens(case.params(), 'base_mlp/~/linear_')) + 1
  head = convert.mlp.epinet_of_mlp(
      dataclasses.replace(case, arrays=arrays), [False] * depth
  )
  network = Combined(convert.mlp.Given(1), head.network, 'inputs')
  variables = {k: {'head': v} for k, v in head.variables.items()}
  return dataclasses.replace(
      head, network=network, variables=variables, x={'inputs': pooled}
  )


def of_raw_keys(keys: np.ndarray) -> jax.Array:
  return jax.random.wrap_key_data(jnp.asarray(keys))


def test_golden_combined():
  """`combine_naive_enn`: its index is the key that the head's is drawn from."""
  case = cases.load_case('combiners/combine_naive_enn')
  ours = combined(case)
  indexer = ours.network.indexer
  indices = jax.vmap(indexer.draw)(of_raw_keys(case['z']))
  params = ours.variables['params']
  out = over_index(lambda z: ours.apply(params, z), indices)
  for part in ('train', 'prior', 'preds'):
    cases.assert_close(getattr(out, part), case[f'out::{part}'])


def test_golden_combined_at_many_indices():
  """`make_optimized_forward` is `over_index` of the same network."""
  case = cases.load_case('combiners/make_optimized_forward')
  ours = combined(case)
  n = case.kwargs['num_enn_samples']
  keys = jax.random.split(of_raw_keys(case['in::key']), n)
  indices = jax.vmap(ours.network.indexer.draw)(keys)
  cases.assert_close(indices, case['ret::head_index'])
  params = ours.variables['params']
  preds = over_index(lambda z: ours.apply(params, z).preds, indices)
  cases.assert_close(preds, case['ret::logits'])


@pytest.mark.parametrize('kind', ['scaled', 'centered'])
def test_golden_rescaled(kind):
  case = cases.load_case('utils/scale_and_center')
  ours = convert.mlp.ensemble(case)
  given = case['in::x_train']
  options = {
      'scaled': {'scale': 3.0},
      'centered': {
          'mean': tuple(map(float, given.mean(0))),
          'std': tuple(map(float, given.std(0))),
      },
  }
  network = Rescaled(ours.network, **options[kind])
  index = ours.index(np.asarray(1))  # that is not stored
  variables = {k: {'net': v} for k, v in ours.variables.items()}
  out = network.apply(variables, ours.x, index)
  for part in ('train', 'prior', 'preds'):
    cases.assert_close(getattr(out, part), case[f'ret::{kind}_{part}'])
