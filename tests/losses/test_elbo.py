"""The ELBO of a linear model is least at its exact posterior."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import losses
from flax_enn.core import Batch
from flax_enn.likelihoods import Gaussian
from flax_enn.losses import Objective
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from tests import slow

NOISE, PRIOR, N = 0.5, 0.7, 16
# Uncorrelated columns of mean 0: the posterior of weights and bias factorises.
X = np.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]] * 3)
Y = (X @ [[0.8], [-0.3]] + 0.2).astype(np.float32)
PRECISION = len(X) / NOISE**2 + 1 / PRIOR**2
POSTERIOR = {
    'kernel': X.T @ Y / NOISE**2 / PRECISION,
    'bias': Y.sum(0) / NOISE**2 / PRECISION,
}
ONES = np.ones(len(X), np.float32)
BATCH = Batch(X, Y, ONES, np.arange(len(X)), ONES)


def trained(network, divergence):
  """The parameters after many steps of the ELBO."""
  schedule = optax.cosine_decay_schedule(0.05, 600)
  tx = optax.adam(schedule)
  step = functools.partial(
      train_step,
      network=network,
      objectives={
          'data': Objective(losses.Nll()), 'kl': Objective(divergence),
      },
      tx=tx,
      likelihood=Gaussian(1, scale=NOISE),
      num_examples=len(X),
      num_indices=N,
  )  # fmt: skip

  def body(state, _):
    return step(state, BATCH)[0], None

  @jax.jit
  def run():
    state = nn.unbox(init_state(network, tx, 0, X))
    return jax.lax.scan(body, state, length=600)[0].params

  return run()


@pytest.mark.parametrize(
    'divergence',
    [
        losses.DiagonalKL(PRIOR),
        slow(losses.MixtureKL(PRIOR)),
    ],
)
def test_bayes_by_backprop_finds_the_posterior(divergence):
  params = trained(BayesByBackprop(MLP((), 1)), divergence)
  for name, expected in POSTERIOR.items():
    mean, rho = (params[tree]['layer_0'][name] for tree in ('mean', 'rho'))
    np.testing.assert_allclose(mean, expected, atol=0.02)
    std = jax.nn.softplus(rho)
    np.testing.assert_allclose(std, PRECISION**-0.5, rtol=0.1)


def test_a_linear_hypermodel_finds_the_posterior():
  """As many directions as weights: u = z W + b, with z ~ N(0, PRIOR^2 I)."""
  network = Hypermodel(
      MLP((), 1),
      index_dim=3,
      index_scale=PRIOR * 3**0.5,
      scale_kernels=False,
  )
  params = trained(network, losses.LinearKL(PRIOR))
  for name, expected in POSTERIOR.items():
    mean = params['mean']['layer_0'][name]
    np.testing.assert_allclose(mean, expected, atol=0.02)
  leaves = jax.tree.leaves(params['directions'])
  w = jnp.concatenate([leaf.reshape(3, -1) for leaf in leaves], axis=1)
  covariance = PRIOR**2 * w.T @ w
  np.testing.assert_allclose(covariance, np.eye(3) / PRECISION, atol=0.004)
