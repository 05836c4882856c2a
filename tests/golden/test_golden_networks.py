"""Networks against enn's, on its parameters, at its indices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.sampling import over_index
from tests.golden import cases, convert

NAMES = cases.names(
    'networks/projected_mlp projected_mlp_noconcat exposed_mlp epinet_mlp'
    ' epinet_mlp_no_hiddens epinet_last_layer_drop_inputs'
    ' epinet_last_layer_with_inputs ensemble_no_state'
    ' mlp_ensemble_matched_prior einsum_ensemble_mlp'
    ' einsum_ensemble_mlp_with_prior bbb dropout_mlp hypermodel_linear'
    ' hypermodel_mlp_noscale hypermodel_prior_independent_layers index_mlp'
    ' gaussian_noise_mlp epinet_mlp_additive_ensemble_prior'
    ' categorical_mlp_ensemble categorical_ensemble_mlp_prior',
    convert.NETWORKS,
)
# Recorded parts of an output that have a test of their own, or no counterpart:
# what our likelihoods know (atoms), and what enn has twice (the index or the
# generated parameters, once more as a vector).
NOT_COMPARED = {
    'extra::exposed_features',
    'extra::atoms',
    'extra::hyper_index',
}


@pytest.fixture(
    params=sorted({
        *NAMES,
        'bert/head_dropout',
        'priors/network_with_additive_prior',
    })
)
def case(request):
  return cases.load_case(request.param)


def converted(case) -> convert.Converted:
  return convert.NETWORKS[case.meta['ctor']](case)


def test_golden_outputs(case):
  ours = converted(case)
  params, z = ours.variables['params'], ours.index(case['z'])

  def recorded(z):
    return ours.recorded(ours.apply(params, z))

  got = jax.jit(lambda z: over_index(recorded, z))(z)
  names = {
      name.removeprefix('out::')
      for name in case.arrays
      if name.startswith('out::')
  }
  assert names & {'preds', 'array'}
  for name in names - NOT_COMPARED:
    cases.assert_close(got[name], case[f'out::{name}'])


def test_golden_gradients(case):
  """Of mean(preds · cot) at the first index, for all that is trained here."""
  ours = converted(case)
  z = jax.tree.map(lambda leaf: leaf[0], ours.index(case['z']))

  def value(params):
    preds = ours.recorded(ours.apply(params, z))['preds']
    return (preds * case['in::cot']).mean()

  got = jax.jit(jax.grad(value))(ours.variables['params'])
  recorded = case.tree('grads')
  assert recorded
  expected = ours.convert(recorded)
  jax.tree.map(cases.assert_close, ours.trained(got), expected)
  for module, grads in recorded.items():
    if 'prior' in module:  # trainable in enn's eyes, and never moved
      assert not any(np.any(grad) for grad in grads.values())


def test_golden_exposed_features():
  case = cases.load_case('networks/exposed_mlp')
  ours = converted(case)
  names = convert.exposed(
      case.kwargs.get('expose_layers'), len(case.kwargs['output_sizes']) - 1
  )
  params = ours.variables['params']['base']
  _, features = ours.network.base.apply({'params': params}, ours.x)
  got = jnp.concatenate([features[name] for name in names], axis=-1)
  cases.assert_close(got, case['out::extra::exposed_features'][0])
