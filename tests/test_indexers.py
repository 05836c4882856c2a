"""Indexers against the moments of the laws they draw from."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers
from flax_enn.core import Indexer

ALPHA = (0.5, 1.0, 2.5)
INDEXERS = {
    'gaussian': indexers.GaussianIndexer(5),
    'scaled': indexers.ScaledGaussianIndexer(5, scale=3.0),
    'unit': indexers.GaussianWithUnitIndexer(5),
    'dirichlet': indexers.DirichletIndexer(ALPHA),
    'ensemble': indexers.EnsembleIndexer(5),
    'prng': indexers.PrngIndexer(),
}
KEY = jax.random.key(17)
N = 20_000
SIGMAS = 5  # a draw further off than this has odds below 1e-6


def raw(indices):
  """Indices as numbers, also where they are typed keys."""
  if jnp.issubdtype(indices.dtype, jax.dtypes.prng_key):
    indices = jax.random.key_data(indices)
  return np.asarray(indices)


def law(name):
  """Mean and covariance of the law, from a textbook."""
  eye = np.eye(5)
  if name == 'gaussian':
    return np.zeros(5), eye
  if name == 'scaled':
    return np.zeros(5), 3.0**2 / 5 * eye
  if name == 'unit':
    return eye[0], np.diag([0, 1, 1, 1, 1]) / 4
  if name == 'ensemble':
    return np.full(5, 1 / 5), eye / 5 - 1 / 25
  p = np.array(ALPHA) / sum(ALPHA)
  return p, (np.diag(p) - np.outer(p, p)) / (sum(ALPHA) + 1)


@pytest.mark.parametrize('name', sorted(set(INDEXERS) - {'prng'}))
def test_mean_and_covariance(name):
  z = raw(INDEXERS[name].sample(KEY, N)).astype(np.float64)
  mean, covariance = law(name)
  std = np.sqrt(np.diag(covariance))
  np.testing.assert_array_less(
      np.abs(z.mean(0) - mean), SIGMAS * std / math.sqrt(N) + 1e-6
  )
  # Each product has its own standard error, measured.
  products = (z - mean)[:, :, None] * (z - mean)[:, None, :]
  error = products.std(0) / math.sqrt(N)
  np.testing.assert_array_less(
      np.abs(products.mean(0) - covariance), SIGMAS * error + 1e-6
  )


@pytest.mark.parametrize(
    ('name', 'expected', 'variance'),
    # |z|^2 is chi-squared: of mean D and variance 2D before it is scaled.
    [('gaussian', 5, 10), ('scaled', 9, 2 * 81 / 5), ('unit', 2, 2 / 4)],
)
def test_squared_norm(name, expected, variance):
  squares = (raw(INDEXERS[name].sample(KEY, N)) ** 2).sum(-1)
  tolerance = SIGMAS * math.sqrt(variance / N)
  np.testing.assert_allclose(squares.mean(), expected, atol=tolerance)
  # 12 k (k + 4), the fourth moment of a chi-squared about its mean, makes the
  # relative error of this variance at most 0.016.
  np.testing.assert_allclose(squares.var(), variance, rtol=SIGMAS * 0.016)


def test_gaussian_tails():
  """Its mass lies where a normal's does, not only its first moments."""
  z = raw(INDEXERS['gaussian'].sample(KEY, N)).ravel()
  for bound in (0.5, 1.0, 2.0, 3.0):
    p = math.erf(bound / math.sqrt(2))
    error = SIGMAS * math.sqrt(p * (1 - p) / z.size)
    np.testing.assert_allclose((np.abs(z) < bound).mean(), p, atol=error)


def test_unit_index_begins_with_one():
  z = raw(INDEXERS['unit'].sample(KEY, 50))
  np.testing.assert_array_equal(z[:, 0], 1)
  assert len(np.unique(z[:, 1:])) == 50 * 4


def test_dirichlet_lies_on_the_simplex():
  z = raw(INDEXERS['dirichlet'].sample(KEY, 500))
  assert (z >= 0).all()
  np.testing.assert_allclose(z.sum(-1), 1, rtol=1e-5)


def test_prng_indices_are_distinct_typed_keys():
  keys = INDEXERS['prng'].sample(KEY, 100)
  assert keys.shape == (100,)
  assert jnp.issubdtype(keys.dtype, jax.dtypes.prng_key)
  assert len(np.unique(raw(keys), axis=0)) == 100
  draws = jax.vmap(jax.random.normal)(keys)  # each is a key to draw with
  assert len(np.unique(draws)) == 100


@pytest.mark.parametrize('name', INDEXERS)
def test_element_does_not_depend_on_how_many_there_are(name):
  """Nor on whether a loop, a compiler or another process asks."""
  indexer = INDEXERS[name]
  many = raw(indexer.sample(KEY, 23))
  np.testing.assert_array_equal(raw(indexer.sample(KEY, 7)), many[:7])
  jitted = jax.jit(indexer.sample, static_argnums=1)
  np.testing.assert_allclose(raw(jitted(KEY, 23)), many, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', INDEXERS)
def test_other_keys_give_other_indices(name):
  indexer = INDEXERS[name]
  one, two = (raw(indexer.sample(jax.random.key(i), 32)) for i in (1, 2))
  assert (one != two).any()
  if name != 'ensemble':
    assert len(np.unique(np.concatenate([one, two]), axis=0)) == 64


@pytest.mark.parametrize('n', [1, 3, 4, 5, 8, 12, 30])
@pytest.mark.parametrize('size', [1, 4, 6])
def test_ensemble_is_stratified(size, n):
  """Every `size` consecutive indices hold each member once."""
  z = raw(indexers.EnsembleIndexer(size).sample(KEY, n))
  assert z.shape == (n, size)
  members = z.argmax(-1)
  np.testing.assert_array_equal(z, np.eye(size)[members])
  for start in range(0, n, size):
    part = members[start : start + size]
    assert len(set(part)) == len(part)
  counts = np.bincount(members, minlength=size)
  assert counts.max() - counts.min() <= 1


def test_ensemble_order_is_uniform():
  """Each of the 3! orders comes up as often as chance has it, every round."""
  size, n = 3, 3 * 4000
  members = raw(indexers.EnsembleIndexer(size).sample(KEY, n)).argmax(-1)
  orders = members.reshape(-1, size) @ [9, 3, 1]
  _, counts = np.unique(orders, return_counts=True)
  p = 1 / 6
  assert len(counts) == 6
  tolerance = SIGMAS * math.sqrt(p * (1 - p) / len(orders))
  np.testing.assert_allclose(counts / len(orders), p, atol=tolerance)


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda: indexers.GaussianIndexer(0), '`dim` of .* is 0; set'),
        (lambda: indexers.ScaledGaussianIndexer(0), '`dim` of .* is 0; set'),
        (lambda: indexers.ScaledGaussianIndexer(2, np.nan), '`scale` of .*nan'),
        (lambda: indexers.GaussianWithUnitIndexer(1), '`dim` of .* at least 2'),
        (lambda: indexers.DirichletIndexer((1, 0)), '`alpha` of .*1, 0'),
        (lambda: indexers.EnsembleIndexer(0), '`size` of .* is 0; set'),
    ],
)
def test_numbers_that_are_of_no_law_are_refused(make, says):
  with pytest.raises(ValueError, match=says):
    make()


@pytest.mark.parametrize('name', sorted(set(INDEXERS) - {'prng'}))
def test_mean_index_is_the_mean_of_the_law(name):
  indexer = INDEXERS[name]
  mean, _ = law(name)
  np.testing.assert_allclose(indexer.mean_index, mean, rtol=1e-6)
  assert indexer.mean_index.shape == indexer.sample(KEY, 1)[0].shape


def test_a_key_has_no_mean():
  assert INDEXERS['prng'].mean_index is None


@pytest.mark.parametrize('name', INDEXERS)
def test_indexers_tell_what_they_are(name):
  """K of a finite support, and a projection where they are Gaussian."""
  indexer = INDEXERS[name]
  assert isinstance(indexer, Indexer)
  assert indexer.size == (5 if name == 'ensemble' else None)
  index = indexer.sample(KEY, 1)[0]
  gaussian = name in ('gaussian', 'scaled', 'unit')
  assert (indexer.standardize(index) is not None) == gaussian


@pytest.mark.parametrize(
    ('name', 'dim'), [('gaussian', 5), ('scaled', 5), ('unit', 4)]
)
def test_standardized_indices_are_gaussian_of_unit_square(name, dim):
  """N(0, I / dim), whatever the indexer's own mean and scale."""
  u = jax.vmap(INDEXERS[name].standardize)(INDEXERS[name].sample(KEY, N))
  u = np.asarray(u, np.float64)
  assert u.shape == (N, dim)
  bound = SIGMAS / math.sqrt(N * dim)
  np.testing.assert_array_less(np.abs(u.mean(0)), bound)
  np.testing.assert_allclose(
      u.T @ u / N, np.eye(dim) / dim, atol=2 * bound / math.sqrt(dim)
  )


@pytest.mark.parametrize('name', INDEXERS)
def test_indexers_are_values(name):
  """Equal fields, equal indexers, so that jit need not compile them twice."""
  indexer = INDEXERS[name]
  twin = dataclasses.replace(indexer)
  assert twin is not indexer
  assert twin == indexer
  assert hash(twin) == hash(indexer)
  if fields := dataclasses.fields(indexer):
    with pytest.raises(dataclasses.FrozenInstanceError):
      setattr(indexer, fields[0].name, 7)
  assert len(set(INDEXERS.values()) | {twin}) == len(INDEXERS)


def test_dirichlet_hashes_whatever_sequence_it_is_given():
  lists = indexers.DirichletIndexer([0.5, 1.0, 2.5])
  assert lists == INDEXERS['dirichlet']
  assert hash(lists) == hash(INDEXERS['dirichlet'])
