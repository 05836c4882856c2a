"""The bound of a variational last layer against sampling and the evidence."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.stats

from flax_enn import losses
from flax_enn.core import Batch, Output
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.variational_last_layer import VariationalLastLayer
from flax_enn.sampling import over_index
from flax_enn.training import checks
from flax_enn.training.trainer import Trainer
from tests import tiny

B, F, C, N = 5, 3, 2, 4000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, F)).astype(np.float32)
LABELS = RNG.integers(C, size=B)
TARGETS = RNG.normal(size=(B, C)).astype(np.float32)


def score(loss, output, likelihood, y=None, params=None):
  ones = np.ones(B, np.float32)
  if y is None:
    y = LABELS if isinstance(likelihood, Categorical) else TARGETS
  return loss(
      output,
      Batch(X, y, ones, np.arange(B), ones),
      variables={'params': params or {}},
      context=losses.Context(jnp.int32(0), B, likelihood),
  )


def last_layer(init_scale=1.0):
  return VariationalLastLayer(MLP((), C), ('inputs',), C, init_scale)


@pytest.mark.parametrize(
    'likelihood', [Gaussian(C, scale=0.8), Categorical(C)], ids=repr
)
@pytest.mark.parametrize('scale', [1.0, 1.5])
def test_bounds_the_sampled_expectation(likelihood, scale):
  """An equality for a Gaussian; for classes between two of Jensen's bounds."""
  network = Rescaled(last_layer(), scale=scale)
  indices = network.indexer.sample(jax.random.key(1), N)

  @jax.jit
  def sampled_and_bound():
    variables = network.init(jax.random.key(0), X, indices[0])

    def at(index):
      out = network.apply(variables, X, index, train=True)
      return score(losses.Nll(), out, likelihood)

    out = network.apply(variables, X, indices[1])
    bound = score(losses.VbllBound(), out, likelihood)
    mean = score(losses.Nll(), out.replace(train=out.base), likelihood)
    return over_index(at, indices), bound, mean

  sampled, bound, at_mean = map(np.asarray, sampled_and_bound())
  error = sampled.std(0) / N**0.5
  gap = bound - sampled.mean(0)
  if isinstance(likelihood, Gaussian):
    assert (np.abs(gap) < 4 * error).all(), (gap, error)
    assert (bound - at_mean > 12 * error).all()  # the trace would be missed
  else:
    assert (gap > -4 * error).all() and gap.max() > 0, (gap, error)
    assert (sampled.mean(0) - at_mean > -4 * error).all()


def test_is_exact_at_the_posterior_of_a_linear_regression():
  """Bound and divergence are then the evidence; columns are orthogonal."""
  noise, prior = 0.5, 0.7
  x = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
  y = x @ np.float32([[0.8], [-0.3]]) + np.float32([[0.4], [0.1], [0.2], [0]])
  precision = len(x) / noise**2 + 1 / prior**2
  mean = {
      'kernel': x.T @ y / noise**2 / precision,
      'bias': y.sum(0) / noise**2 / precision,
  }
  rho = np.float32(np.log(np.expm1(precision**-0.5)))
  variables = {'params': {
      'mean': mean, 'rho': jax.tree.map(lambda m: np.full_like(m, rho), mean)
  }}  # fmt: skip
  network = VariationalLastLayer(MLP((), 1), ('inputs',), 1)
  layer = {'kernel': np.ones((2, 1)), 'bias': np.ones(1)}  # is not used
  variables['params']['base'] = {'layer_0': layer}
  ones = np.ones(len(x), np.float32)
  batch = Batch(x, y, ones, np.arange(len(x)), ones)
  context = losses.Context(jnp.int32(0), len(x), Gaussian(1, noise))
  given = {'variables': variables, 'context': context}
  out = network.apply(variables, x, jax.random.key(1))
  bound = losses.VbllBound()(out, batch, **given).mean()
  total = bound + losses.DiagonalKL(prior)(out, batch, **given)
  phi = np.pad(x, ((0, 0), (0, 1)), constant_values=1)
  covariance = prior**2 * phi @ phi.T + noise**2 * np.eye(len(x))
  evidence = scipy.stats.multivariate_normal.logpdf(y[:, 0], cov=covariance)
  np.testing.assert_allclose(-len(x) * total, evidence, rtol=1e-5)


def test_of_classes_in_closed_form():
  """At mean 0 and equal variances v it is log C + v / 2, whatever the label."""
  zeros = jnp.zeros((B, C))
  out = Output(zeros, base=zeros, extra={'variance': jnp.full((B, C), 0.6)})
  found = score(losses.VbllBound(), out, Categorical(C))
  np.testing.assert_allclose(found, np.log(C) + 0.3, rtol=1e-6)
  none = out.replace(extra={'variance': zeros})
  for likelihood in (Categorical(C, temperature=0.5), Gaussian(C, scale=3.0)):
    np.testing.assert_allclose(
        score(losses.VbllBound(), none, likelihood),
        score(losses.Nll(), none, likelihood),
        rtol=1e-6,
    )
  wrong = score(losses.VbllBound(), out, Categorical(C), np.full(B, C))
  assert np.isnan(wrong).all()  # as with any loss of labels


def test_trains_from_a_config():
  config = tiny.epinet(
      network={
          'name': 'variational_last_layer',
          'features': ('hidden_0',),
          'base': {'name': 'mlp', 'hiddens': (4,)},
      },
      num_indices=1,
  )
  config.objectives = ml_collections.ConfigDict({
      'data': {'loss': {'name': 'vbll_bound'}},
      'kl': {'loss': {'name': 'diagonal_kl'}},
  })
  trainer = Trainer.from_config(config)
  checks.check(trainer)
  assert trainer.objectives['data'].loss == losses.VbllBound()


def test_refuses_what_has_no_closed_form():
  zeros = jnp.zeros((B, C))
  out = Output(zeros, base=zeros, extra={'variance': zeros})
  for bad in (TwoHot(0.0, 1.0, C), Gaussian(1, scale=None)):
    with pytest.raises(ValueError, match='needs the likelihood Categorical'):
      score(losses.VbllBound(), out, bad)
  with pytest.raises(ValueError, match='needs the extra outputs'):
    score(losses.VbllBound(), Output(zeros), Categorical(C))
  for bad in (out.replace(base=None), out.replace(prior=zeros)):
    with pytest.raises(ValueError, match='base plus Gaussian noise, but the'):
      score(losses.VbllBound(), bad, Categorical(C))
