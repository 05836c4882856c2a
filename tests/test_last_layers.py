"""Last layers with a posterior against closed forms, and shared members."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import build, kinds
from flax_enn.likelihoods import Gaussian
from flax_enn.metrics import PredictiveStats, marginal
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.backbones.spectral_norm import (
  SpectralNorm,
  largest_singular_value,
)
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.linear_ensemble import LinearEnsemble
from flax_enn.networks.sngp import RandomFeatures, Sngp
from flax_enn.networks.variational_last_layer import VariationalLastLayer
from flax_enn.sampling import over_index

B, F, STD, PRECISION = 24, 5, 0.5, 2.0
FORMS = ['full', 'diagonal', 'kronecker', 'low_rank']


def data(classes, seed=0):
  rng = np.random.RandomState(seed)
  x = rng.normal(size=(B, F)).astype(np.float32)
  return x, rng.normal(size=(B, classes)).astype(np.float32)


def init(network, x):
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  rngs = {'params': jax.random.key(0), 'frozen': jax.random.key(0)}
  return jax.jit(network.init)(rngs, x, index)


@functools.partial(jax.jit, static_argnums=0)
def fit_step(network, variables, x):
  index = network.indexer.sample(jax.random.key(2), 1)[0]
  _, updated = network.apply(
      variables, x, index, train=True,
      mutable=[c for c in variables if c not in ('params', 'frozen')],
  )  # fmt: skip
  return {**variables, **updated}


def covariance(network, variables, x, outputs):
  """Of the outputs at x, flattened: exact, since they are linear in the noise.

  The noise is put in the place of its draw.
  """
  size = network_noise(network, variables, x)

  def out(noise):
    found = network.apply(variables, x, [noise])
    return (found.preds - found.base).reshape(-1)

  jacobian = jax.jit(jax.jacobian(out))(jnp.zeros(size))
  jacobian = np.asarray(jacobian).reshape(len(x) * outputs, -1)
  return jacobian @ jacobian.T


def network_noise(network, variables, x):
  shapes = []

  def draw(*args):
    shapes.append(args[-1])
    return jnp.zeros(args[-1])

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(jax.random, 'normal', draw)
    key = jax.random.key(0)
    jax.eval_shape(lambda x: network.apply(variables, x, key).preds, x)
  (shape,) = shapes
  return shape


def regression(form, classes, rank=64):
  """A linear model with the weights of ridge regression, fitted to data.

  The precision is the textbook's (Bishop, equations 3.53 and 3.54).
  """
  x, y = data(classes)
  phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1).astype(np.float64)
  precision = phi.T @ phi / STD**2 + PRECISION * np.eye(F + 1)
  weights = np.linalg.solve(precision, phi.T @ y / STD**2)
  network = Laplace(
      MLP(hiddens=(), classes=classes),
      ('inputs',),
      form=form,
      prior_precision=PRECISION,
      noise_std=STD,
      rank=rank,
  )
  variables = init(network, x)
  variables['params']['base']['layer_0'] = {
      'kernel': jnp.float32(weights[:-1]), 'bias': jnp.float32(weights[-1])
  }
  for half in (x[:9], x[9:]):  # sums do not depend on how data are cut
    variables = fit_step(network, variables, half)
  return network, variables, precision, weights


@pytest.mark.parametrize('form', FORMS)
def test_laplace_of_a_linear_regression_is_exact(form):
  classes = 2
  network, variables, precision, weights = regression(form, classes)
  x, _ = data(classes, seed=1)
  x = x[:3]
  phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1)
  inverse = np.linalg.inv(precision)
  if form == 'diagonal':
    inverse = np.diag(1 / np.diag(precision))
  expected = np.kron(phi @ inverse @ phi.T, np.eye(classes))
  np.testing.assert_allclose(
      covariance(network, variables, x, classes), expected,
      rtol=1e-3, atol=1e-5,
  )  # fmt: skip
  out = jax.jit(network.apply)(variables, x, jax.random.key(0))
  np.testing.assert_allclose(out.base, phi @ weights, rtol=1e-4, atol=1e-5)


def test_metrics_of_the_exact_predictive():
  """Many indices of the fitted network, against the Gaussian in closed form."""
  network, variables, precision, weights = regression('full', 1)
  x, y = data(1, seed=1)
  phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1)
  variance = np.einsum(
      'bf,fg,bg->b', phi, np.linalg.inv(precision), phi
  )
  total = variance + STD**2
  error = y[:, 0] - (phi @ weights)[:, 0]
  nll = 0.5 * (np.log(2 * np.pi * total) + error**2 / total)
  likelihood, tau = Gaussian(1, scale=STD), 3
  indices = network.indexer.sample(jax.random.key(3), 4000)
  outputs = jax.jit(
      lambda z: over_index(
          lambda i: network.apply(variables, x, i).preds, z
      )
  )(indices)
  stats = PredictiveStats.zeros(likelihood, batch_size=B, tau=tau)
  update = jax.jit(stats.update, static_argnums=0)
  stats = update(likelihood, outputs, jnp.asarray(y))
  np.testing.assert_allclose(outputs.mean(0), phi @ weights, atol=0.05)
  np.testing.assert_allclose(
      outputs.std(0)[:, 0], np.sqrt(variance), rtol=0.08
  )
  np.testing.assert_allclose(
      marginal.nll(stats), nll, rtol=0.02, atol=0.01
  )
  # Groups of three inputs, whose targets are jointly Gaussian.
  joint = []
  for rows in np.split(np.arange(B), B // tau):
    of = phi[rows] @ np.linalg.inv(precision) @ phi[rows].T
    of += STD**2 * np.eye(tau)
    residual = y[rows, 0] - (phi[rows] @ weights)[:, 0]
    _, log_det = np.linalg.slogdet(2 * np.pi * of)
    joint.append(0.5 * (log_det + residual @ np.linalg.solve(of, residual)))
  estimate = stats.log_total - stats.distinct
  np.testing.assert_allclose(estimate, joint, rtol=0.03, atol=0.05)


def classification(form, rank=64):
  classes = 3
  x, _ = data(classes)
  network = Laplace(
      MLP(hiddens=(), classes=classes), ('inputs',), form=form,
      prior_precision=PRECISION, rank=rank,
  )  # fmt: skip
  variables = fit_step(network, init(network, x), x)
  logits = jax.jit(network.apply)(variables, x, jax.random.key(0)).base
  return network, variables, np.asarray(jax.nn.softmax(logits), np.float64)


def hessian(x, probs):
  """Of the summed log-loss in all weights, by a loop over the examples."""
  phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1).astype(np.float64)
  total = 0
  for row, p in zip(phi, probs):
    total += np.kron(np.outer(row, row), np.diag(p) - np.outer(p, p))
  return total


@pytest.mark.parametrize('form', FORMS)
def test_laplace_of_classes_has_the_curvature_of_the_loss(form):
  network, variables, probs = classification(form)
  x, classes = data(3)[0], 3
  exact = hessian(x, probs)

  def loss(flat):
    params = flat.reshape(F + 1, classes)
    logits = x @ params[:-1] + params[-1]
    own = jnp.argmax(probs, -1)  # the curvature does not depend on the label
    return -jax.nn.log_softmax(logits)[jnp.arange(B), own].sum()

  layer = variables['params']['base']['layer_0']
  flat = jnp.concatenate([layer['kernel'], layer['bias'][None]]).reshape(-1)
  np.testing.assert_allclose(
      jax.jit(jax.hessian(loss))(flat), exact, rtol=1e-3, atol=1e-4
  )
  if form == 'diagonal':
    exact = np.diag(np.diag(exact))
  if form == 'kronecker':
    phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1)
    each = [np.diag(p) - np.outer(p, p) for p in probs]
    exact = np.kron(phi.T @ phi, np.mean(each, axis=0))
  at = x[:2]
  rows = np.pad(at, ((0, 0), (0, 1)), constant_values=1)
  jacobian = np.kron(rows, np.eye(classes))
  inverse = np.linalg.inv(exact + PRECISION * np.eye(len(exact)))
  np.testing.assert_allclose(
      covariance(network, variables, at, classes),
      jacobian @ inverse @ jacobian.T,
      rtol=2e-3,
      atol=1e-5,
  )


def test_laplace_of_low_rank_never_claims_to_know_more():
  """A smaller rank leaves variance in, and comes close as it grows."""
  x = data(3)[0]
  few, many, exact = (
      np.diag(covariance(*classification(form, rank)[:2], x, 3))
      for form, rank in (('low_rank', 2), ('low_rank', 8), ('full', 0))
  )
  for variance in (few, many):
    assert (variance > exact * (1 - 1e-3)).all()
  assert few.mean() > 1.2 * many.mean() > 1.2 * exact.mean()


def test_laplace_refuses_an_unknown_form():
  with pytest.raises(ValueError, match="form is 'ful'; it is one of"):
    Laplace(MLP((), 2), ('inputs',), form='ful')


@pytest.mark.slow
def test_sngp_adds_up_the_outer_products():
  x = data(2)[0]
  base = SpectralNorm(MLP(hiddens=(6,), classes=4))
  network = Sngp(
      base, ('hidden_0',), classes=2, num_features=7, ridge=0.5, decay=1.0
  )
  variables = init(network, x)
  assert not variables['precision']['sum'].any()
  for part in (x[:10], x[10:]):
    variables = fit_step(network, variables, part)
  _, features = base.apply({'params': variables['params']['base']}, x)
  random = variables['frozen']['random']['params']
  psi = np.sqrt(2 / 7) * np.cos(
      features['hidden_0'] @ random['kernel'] + random['bias']
  )
  expected = sum(np.outer(row, row) for row in psi)
  np.testing.assert_allclose(
      variables['precision']['sum'], expected, rtol=1e-4, atol=1e-5
  )
  precision = expected + 0.5 * np.eye(7)
  np.testing.assert_allclose(
      covariance(network, variables, x[:3], 2),
      np.kron(psi[:3] @ np.linalg.inv(precision) @ psi[:3].T, np.eye(2)),
      rtol=1e-3,
      atol=1e-5,
  )
  forgets = network.clone(decay=0.25)
  twice = fit_step(forgets, fit_step(forgets, init(forgets, x), x), x)
  np.testing.assert_allclose(
      twice['precision']['sum'], 1.25 * expected, rtol=1e-4, atol=1e-5
  )


def test_random_features_are_those_of_a_gaussian_kernel():
  x = data(2)[0]
  features = RandomFeatures(20_000, length_scale=2.0)
  psi, _ = features.init_with_output(jax.random.key(0), x)
  distance = np.square(x[:, None] - x).sum(-1)
  np.testing.assert_allclose(psi @ psi.T, np.exp(-distance / 8), atol=0.05)


def test_spectral_norm_bounds_every_kernel():
  rng = np.random.RandomState(0)
  for shape in ((7, 5), (5, 7), (1, 4)):
    matrix = jnp.float32(rng.normal(size=shape))
    exact = np.linalg.svd(matrix, compute_uv=False)[0]
    assert largest_singular_value(matrix, 50) == pytest.approx(exact, rel=1e-4)
  assert largest_singular_value(jnp.zeros((3, 2)), 3) == 0
  x = data(2)[0]
  inner = MLP(hiddens=(6,), classes=2)
  net = SpectralNorm(inner, bound=0.5, iterations=50)
  variables = net.init(jax.random.key(0), x)
  params = variables['params']['net']
  params['layer_0']['kernel'] *= 10
  params['layer_1']['kernel'] *= 0.01
  logits, _ = net.apply(variables, x)
  normed = jax.tree.map(jnp.array, params)
  found = np.linalg.svd(params['layer_0']['kernel'], compute_uv=False)[0]
  normed['layer_0']['kernel'] *= 0.5 / found
  expected, _ = inner.apply({'params': normed}, x)
  np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('part', ['all', 'some'])
def test_spectral_norm_refuses_kernels_that_are_frozen(part):
  x, key = data(2)[0], jax.random.key(0)
  rngs = {'params': key, 'frozen': key}
  frozen = Frozen(MLP(hiddens=(), classes=2))
  net = SpectralNorm(frozen if part == 'all' else PartlyFrozen(frozen))
  with pytest.raises(ValueError, match=r'inside: Frozen\(SpectralNorm'):
    jax.eval_shape(net.init, rngs, x)
  # As it says: the frozen kernel is then normed.
  inside = Frozen(SpectralNorm(frozen.net, bound=1e-3))
  (logits, _), _ = inside.init_with_output(rngs, x)
  assert 0 < np.abs(logits).max() < 0.01


class PartlyFrozen(nn.Module):
  """A frozen base with a trained layer behind it."""

  base: nn.Module

  @nn.compact
  def __call__(self, x, *, train=False):
    return nn.Dense(2)(self.base(x, train=train)[0]), {}


def test_variational_weights_are_gaussian_and_shared_over_the_batch():
  x = data(2)[0]
  network = VariationalLastLayer(
      MLP(hiddens=(), classes=4), ('logits',), classes=2, init_scale=0.3
  )
  variables = init(network, x)
  mean, rho = (variables['params'][k] for k in ('mean', 'rho'))
  scale = jax.tree.map(jax.nn.softplus, rho)
  np.testing.assert_allclose(scale['kernel'], 0.15, rtol=1e-5)  # 0.3 / sqrt(4)
  rng = np.random.RandomState(0)
  noise = {k: rng.normal(size=v.shape) for k, v in mean.items()}
  drawn = {k: mean[k] + scale[k] * noise[k] for k in mean}
  base, _ = network.base.apply({'params': variables['params']['base']}, x)
  found = network.apply(variables, x, [noise['bias'], noise['kernel']])
  np.testing.assert_allclose(
      found.preds, base @ drawn['kernel'] + drawn['bias'], rtol=1e-5
  )
  np.testing.assert_allclose(
      found.base, base @ mean['kernel'] + mean['bias'], rtol=1e-5
  )
  indices = network.indexer.sample(jax.random.key(2), 4000)
  outputs = jax.jit(
      lambda z: over_index(
          lambda i: network.apply(variables, x[:3], i).preds, z
      )
  )(indices)
  expected = np.square(base[:3]) @ np.square(scale['kernel'])
  expected += np.square(scale['bias'])
  np.testing.assert_allclose(outputs.var(0), expected, rtol=0.1)


def test_linear_ensemble_is_linear_in_the_index():
  x = data(2)[0]
  network = LinearEnsemble(
      MLP(hiddens=(4,), classes=2), ('hidden_0',), index_dim=3, prior_scale=2.0
  )
  variables = init(network, x)
  _, features = network.base.apply({'params': variables['params']['base']}, x)
  members = variables['params']['members']['kernel']  # [F, C, D]
  prior = variables['frozen']['prior']['params']['kernel']
  index = jnp.array([0.5, -1.0, 2.0])
  found = network.apply(variables, x, index)
  of = functools.partial(jnp.einsum, 'bf,fcd,d->bc', features['hidden_0'])
  np.testing.assert_allclose(
      found.preds,
      found.base + of(members, index) + 2 * of(prior, index),
      rtol=1e-4,
      atol=1e-5,
  )
  mean = network.apply(variables, x, network.indexer.mean_index)
  np.testing.assert_allclose(mean.preds, mean.base, rtol=1e-6)


CONFIGS = {
    'laplace': {'features': ('hidden_0',)},
    'linear_ensemble': {'features': ('hidden_0',), 'index_dim': 3},
    'sngp': {'features': ('hidden_0',), 'num_features': 6},
    'variational_last_layer': {'features': ('hidden_0',)},
}


@pytest.mark.parametrize('name', CONFIGS)
def test_from_a_config(name):
  base = {'name': 'mlp', 'hiddens': (4,), 'frozen': True}
  config = {'name': name, **CONFIGS[name], 'base': base}
  network = build.build(config, kinds.NETWORK, 'config.network', 3)
  x = data(2)[0]
  variables = init(network, x)
  assert 'base' not in variables.get('params', {})
  assert 'base' in variables['frozen']
  index = network.indexer.sample(jax.random.key(0), 1)[0]
  out = network.apply(variables, x, index)
  assert out.preds.shape == (B, 3)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_base_in_bfloat16(name):
  """Posteriors are computed in float32 whatever the base is."""
  base = {'name': 'mlp', 'hiddens': (4,), 'dtype': 'bfloat16'}
  config = {'name': name, **CONFIGS[name], 'base': base}
  network = build.build(config, kinds.NETWORK, 'config.network', 3)
  x = data(2)[0]
  variables = fit_step(network, init(network, x), x)
  index = network.indexer.sample(jax.random.key(0), 1)[0]
  out = jax.jit(network.apply)(variables, x, index)
  assert out.preds.dtype == jnp.float32
  assert jnp.isfinite(out.preds).all()
  assert {leaf.dtype.name for leaf in jax.tree.leaves(variables)} == {'float32'}
