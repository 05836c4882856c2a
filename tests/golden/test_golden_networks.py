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
    ' einsum_ensemble_mlp_with_prior',
    convert.NETWORKS,
)


@pytest.fixture(params=NAMES)
def case(request):
  return cases.load_case(request.param)


def converted(case) -> convert.Converted:
  return convert.NETWORKS[case.meta['ctor']](case)


def test_golden_outputs(case):
  ours = converted(case)
  params, z = ours.variables['params'], ours.index(case['z'])
  apply = jax.jit(lambda p, z: over_index(lambda i: ours.apply(p, i), z))
  out = apply(params, z)
  if 'out::array' in case:
    cases.assert_close(out.preds, case['out::array'])
    return
  cases.assert_close(out.train, case['out::train'])
  cases.assert_close(out.preds, case['out::preds'])
  # No prior is None here, and zeros in enn.
  prior = jnp.zeros_like(out.train) if out.prior is None else out.prior
  cases.assert_close(prior, case['out::prior'])


def test_golden_gradients(case):
  """Of mean(preds · cot) at the first index, for all that is trained here."""
  ours = converted(case)
  z = ours.index(case['z'])[0]

  def value(params):
    return (ours.apply(params, z).preds * case['in::cot']).mean()

  got = jax.jit(jax.grad(value))(ours.variables['params'])
  recorded = case.tree('grads')
  assert recorded
  jax.tree.map(cases.assert_close, got, ours.convert(recorded))
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
