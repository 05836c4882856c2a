"""Tiny models whose predictions are known in closed form."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn import indexers
from flax_enn.core import Output
from flax_enn.inference import Predictor
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.model import Model

D = 3  # entries of x


class Linear(nn.Module):
  """`f(x, z) = x · z`, a prior on the weights of a linear regression."""

  @property
  def indexer(self):
    return indexers.ScaledGaussianIndexer(D)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    return Output((x @ index)[:, None])


class Members(nn.Module):
  """Logits of K random linear classifiers."""

  members: int = 5
  classes: int = 3

  @property
  def indexer(self):
    return indexers.EnsembleIndexer(self.members)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    shape = D, self.classes, self.members
    kernel = self.param('kernel', nn.initializers.normal(2.0), shape)
    return Output(jnp.einsum('bd,dck,k->bc', x, kernel, index))


class Curved(nn.Module):
  """A classifier whose features do not depend on a Gaussian index."""

  classes: int = 3

  @property
  def indexer(self):
    return indexers.GaussianIndexer(4)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    h = nn.relu(nn.Dense(8, name='base')(x))
    basis = nn.Dense(4 * self.classes)(h).reshape(-1, self.classes, 4)
    return Output(nn.Dense(self.classes)(h) + jnp.tanh(basis @ index))


def predictor(network, likelihood, n, **options):
  """With n indices of key 1, and variables of key 0."""
  model = Model(network, likelihood, jax.ShapeDtypeStruct((D,), np.float32))
  indices = network.indexer.sample(jax.random.key(1), n)
  variables = network.init(
      jax.random.key(0), np.zeros((1, D), np.float32), indices[0]
  )
  return Predictor.create(model, variables, indices, **options)


def linear(n, noise=0.5, **options):
  return predictor(Linear(), Gaussian(1, scale=noise), n, **options)


def members(temperature=1.0, **options):
  likelihood = Categorical(3, temperature=temperature)
  return predictor(Members(), likelihood, 5, **options)


def curved(n, **options):
  return predictor(Curved(), Categorical(3), n, **options)


def inputs(rows, seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(rows, D)).astype(np.float32)


def labels(rows, seed=0):
  return np.random.default_rng(seed + 100).integers(0, 3, rows)


def member_probs(p, x):
  """`[K, B, C]` in numpy, in float64."""
  kernel = np.asarray(p.variables['params']['kernel'], np.float64)
  chosen = kernel @ np.asarray(p.indices, np.float64).T
  logits = np.einsum('bd,dck->kbc', x, chosen) / p.model.likelihood.temperature
  odds = np.exp(logits - logits.max(-1, keepdims=True))
  return odds / odds.sum(-1, keepdims=True)
