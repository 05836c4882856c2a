"""Priors that are random functions: Gaussian processes, perceptrons of z."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.indexers import GaussianWithUnitIndexer
from flax_enn.likelihoods import Gaussian
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.index_mlp import IndexMLP
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.gp_prior import GPPrior
from flax_enn.networks.priors.independent_layers_prior import (
    IndependentLayersPrior,
)
from flax_enn.networks.priors.index_mlp_prior import IndexMLPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests.test_laws import PRODUCTS, scoped_equations

KEY = jax.random.key(5)
RNGS = {'params': jax.random.key(3), 'frozen': jax.random.key(4)}
X = jax.random.normal(jax.random.key(0), (5, 3))
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


def kernel(x, gamma):
  """The RBF kernel of length scale 1 / gamma, halved."""
  distances = jnp.square(x[:, None] - x[None]).sum(-1)
  return jnp.exp(-0.5 * gamma**2 * distances) / 2


def waves(prior, params):
  """The features `[B, M]` that alpha weighs: the gradient by it."""

  def value(alpha):
    return prior.apply({'params': {**params, 'alpha': alpha}}, X)[0][:, 0]

  return jax.jit(jax.jacobian(value))(params['alpha'])


@pytest.mark.parametrize('gamma', [0.6, (0.2, 1.0)])
def test_many_features_have_the_kernel_in_closed_form(gamma):
  """alpha ~ N(0, I): the covariance is that of its features, exactly."""
  prior = GPPrior(classes=1, features=100_000, gamma=gamma, scale=1.5)
  params = jax.jit(prior.init)(KEY, X)['params']
  features = waves(prior, params)
  gammas = [gamma] if isinstance(gamma, float) else np.linspace(*gamma, 101)
  expected = 1.5**2 * np.mean([kernel(X, g) for g in gammas], axis=0)
  np.testing.assert_allclose(features @ features.T, expected, atol=0.01)


def test_outputs_of_a_gaussian_process_are_uncorrelated():
  prior = GPPrior(classes=2, features=50, gamma=1.0)
  draws = jax.jit(jax.vmap(lambda k: prior.init_with_output(k, X)[0][0]))
  draws = draws(jax.random.split(KEY, 4000))
  for output in range(2):
    covariance = np.cov(draws[:, :, output].T)
    np.testing.assert_allclose(covariance, kernel(X, 1.0), atol=0.06)
  across = np.corrcoef(draws[:, 0, 0], draws[:, 0, 1])[0, 1]
  assert abs(across) < 0.06


def products_of_the_prior(network, variables, n):
  """The products of the prior `gp` at n indices."""
  indices = network.indexer.sample(KEY, n)

  def values(variables):
    return over_index(lambda z: network.apply(variables, X, z).prior, indices)

  jaxpr = jax.make_jaxpr(values)(variables).jaxpr
  return [
      equation
      for equation, names in scoped_equations(jaxpr)
      if equation.primitive.name in PRODUCTS and 'prior_gp' in names
  ]


@pytest.mark.parametrize(
    'network',
    [MLPDropout((4,), 2), Deterministic(MLP((4,), 2))],
    ids=['key', 'no index'],
)
def test_one_function_beside_any_index(network):
  """By itself it needs no index, and runs once for any number of them."""
  beside = WithPrior(network, {'gp': ScaledPrior(GPPrior(2, 20), 2.0)})
  indices = network.indexer.sample(KEY, 37)
  variables = jax.jit(beside.init)(RNGS, X, indices[0])
  params = variables['frozen']['prior_gp']
  expected = 2 * GPPrior(2, 20).apply(params, X)[0]
  close(jax.jit(beside.apply)(variables, X, indices[1]).prior, expected)
  products = products_of_the_prior(beside, variables, 37)
  assert products
  assert not [e for e in products if 37 in e.outvars[0].aval.shape]


def test_one_function_for_each_member():
  network = WithPrior(
      Ensemble(MLP((4,), 2), 3), {'gp': EnsemblePrior(GPPrior(2, 20))}
  )
  indices = jnp.eye(3)
  variables = jax.jit(network.init)(RNGS, X, indices[0])
  params = variables['frozen']['prior_gp']['params']['member']
  gp = GPPrior(2, 20)
  functions = jax.jit(jax.vmap(lambda p: gp.apply({'params': p}, X)[0]))
  apply = jax.jit(network.apply)
  for z, expected in zip(indices, functions(params)):
    close(apply(variables, X, z).prior, expected)


INDEX_MLP = IndexMLP((6, 5), 4, index_dim=3, variance_hidden=7)


def test_a_prior_for_the_means_that_leaves_the_constant_out():
  """At z = (1, 0) there is no prior, at no z one for the variances."""
  prior = ScaledPrior(EnsemblePrior(GPPrior(4, 20), skip=1), (2, 2, 0, 0))
  network = WithPrior(INDEX_MLP, {'gp': prior})
  assert network.indexer == GaussianWithUnitIndexer(3)
  z = network.indexer.sample(KEY, 1)[0]
  variables = jax.jit(network.init)(RNGS, X, z)
  apply = jax.jit(network.apply)
  assert not np.any(apply(variables, X, network.indexer.mean_index).prior)
  found = apply(variables, X, z).prior
  params = variables['frozen']['prior_gp']['params']['member']
  functions = jax.vmap(lambda p: GPPrior(4, 20).apply({'params': p}, X)[0])
  expected = 2 * jnp.tensordot(z[1:], functions(params), 1)
  close(found[:, :2], expected[:, :2])
  assert not np.any(found[:, 2:])


def test_half_of_the_outputs_are_variances():
  """As the Gaussian likelihood reads them; each half has its own head."""
  likelihood = Gaussian(2, scale=None)
  assert likelihood.outputs == INDEX_MLP.classes
  z = INDEX_MLP.indexer.sample(KEY, 1)[0]
  variables = jax.jit(INDEX_MLP.init)(RNGS, X, z)

  def moments(variables):
    return likelihood.moments(INDEX_MLP.apply(variables, X, z).preds)

  zeros = {
      name: {
          **variables['params'],
          name: jax.tree.map(jnp.zeros_like, variables['params'][name]),
      }
      for name in ('mean', 'variance')
  }
  before = jax.jit(moments)(variables)
  without_mean, without_variance = (
      jax.jit(moments)({'params': zeros[name]}) for name in zeros
  )
  close(without_mean[0], jnp.zeros((5, 2)))
  close(without_mean[1], before[1])
  close(without_variance[0], before[0])
  close(without_variance[1], jnp.ones((5, 2)))


def test_log_variances_may_be_extra():
  """The same head, beside outputs that are all of them means."""
  network = INDEX_MLP.clone(classes=2, extra_log_var=True)
  z = INDEX_MLP.indexer.sample(KEY, 1)[0]
  variables = jax.jit(INDEX_MLP.init)(RNGS, X, z)
  jax.tree.map(
      np.testing.assert_array_equal,
      jax.jit(network.init)(RNGS, X, z),
      variables,
  )
  out = jax.jit(network.apply)(variables, X, z)
  both = jax.jit(INDEX_MLP.apply)(variables, X, z)
  assert both.extra == {} and {*out.extra} == {'log_var'}
  close(jnp.concatenate([out.train, out.extra['log_var']], -1), both.train)
  half = network.clone(dtype='bfloat16')
  extra = jax.eval_shape(half.apply, variables, X, z).extra
  assert extra['log_var'].dtype == jnp.float32


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (
            {'extra_log_var': True, 'variance_hidden': None},
            '`extra_log_var` and no head of variances; set `variance_hidden`',
        ),
        ({'classes': 3}, r'IndexMLP has 3 `classes` and a head of variances'),
        ({'hiddens': ()}, 'IndexMLP has no hidden layer'),
        ({'index_dim': 1}, '`index_dim` of IndexMLP is 1.* at least 2'),
        ({'index_dim': 4}, r'got an index of shape \(3,\), expected \(4,\)'),
    ],
)
def test_index_mlp_says_what_is_wrong(options, message):
  with pytest.raises(ValueError, match=message):
    INDEX_MLP.clone(**options).init(RNGS, X, jnp.ones(3))


def test_a_random_perceptron_of_input_and_index():
  prior, z = IndexMLPPrior((60, 50)), jnp.array([0.5, -1.0])
  params = jax.jit(prior.init, static_argnums=3)(KEY, X, z, 40)['params']
  h = np.hstack([X, np.tile(z, (len(X), 1))])
  first = params['layer_0']
  kernel = np.vstack([first['h']['kernel'], first['z']['kernel']])
  h = h @ kernel + first['h']['bias']
  for layer in (params['layer_1'], params['layer_2']):
    h = np.maximum(h, 0) @ layer['kernel'] + layer['bias']
  found = jax.jit(lambda p: prior.apply({'params': p}, X, z, 40))(params)
  close(found, h, rtol=1e-4, atol=1e-5)
  # Variance scaling and the truncated biases of enn.
  kernel = params['layer_1']['kernel']
  assert kernel.std() == pytest.approx((3 / 60) ** 0.5, rel=0.05)
  assert np.abs(params['layer_1']['bias']).max() <= 0.2


def unit(vectors):
  return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ('dim', 'parts'), [(1, [(0,), (0,)]), (3, [(0, 1), (2,)])]
)
def test_layers_read_parts_of_the_index(dim, parts):
  """Three entries for two layers are cut 2 + 1; one entry serves both."""
  prior = IndependentLayersPrior((4,), 2.0, 3.0, 0.5)
  z = jnp.array([0.5, -1.0, 2.0])[:dim]
  params = jax.jit(prior.init, static_argnums=3)(KEY, X, z, 2)['params']
  h = np.asarray(X)
  for i, part in enumerate(parts):
    own = np.asarray(z)[list(part)]
    kernel = unit(params[f'kernel_{i}']) @ own * np.sqrt(2)
    bias = (unit(params[f'bias_{i}']) * np.sqrt(3) + 0.5) @ own
    h = np.maximum(h, 0) @ kernel / 2 if i else h @ kernel  # 2: root of 4 units
    h = h + bias
  found = jax.jit(lambda p: prior.apply({'params': p}, X, z, 2))(params)
  close(found, h, rtol=1e-4, atol=1e-5)


def test_any_network_is_a_prior():
  """One with a prior of its own: what it predicts, with no gradient to it."""
  epinet = Epinet(MLP((4,), 2), ('hidden_0',), index_dim=3, hiddens=(3,))
  network = WithPrior(epinet.clone(), {'epinet': ScaledPrior(epinet, 0.5)})
  z = network.indexer.sample(KEY, 1)[0]
  variables = jax.jit(network.init)(RNGS, X, z)
  own = variables['frozen']['prior_epinet']
  assert set(own) == {'params', 'frozen'}

  @jax.jit
  def priors(variables):
    both = network.apply(variables, X, z).prior
    alone = {'prior': variables['frozen']['prior']}
    alone = epinet.apply({**variables, 'frozen': alone}, X, z).prior
    return both - alone, epinet.apply(own, X, z).preds

  found, preds = priors(variables)
  close(found, 0.5 * preds)
