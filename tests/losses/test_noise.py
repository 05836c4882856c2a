"""Noise on (id, index), and the objective that carries it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import indexers, losses
from flax_enn.core import Batch

LAWS = {
    'ensemble': indexers.EnsembleIndexer(5),
    'gaussian': indexers.GaussianIndexer(8),
    'scaled': indexers.ScaledGaussianIndexer(8, scale=3.0),
    'unit': indexers.GaussianWithUnitIndexer(9),
    'prng': indexers.PrngIndexer(),
}
LINEAR = ('exponential', 'bernoulli')
CASES = [
    (law, distribution)
    for law in LAWS
    for distribution in ('exponential', 'bernoulli', 'poisson', 'uniform')
    if law in ('ensemble', 'prng') or distribution in LINEAR
]
# Variance of a weight, on the average over examples.
VARIANCE = {'exponential': 1, 'bernoulli': 1, 'poisson': 1, 'uniform': 1 / 3}


def make_batch(ids, outputs=1) -> Batch:
  n = len(ids)
  y = jnp.zeros((n, outputs))
  return Batch(jnp.zeros((n, 1)), y, jnp.ones(n), jnp.asarray(ids), jnp.ones(n))


def weights(noise, ids, index):
  return np.asarray(noise(make_batch(ids), index).weight)


def many_weights(noise, ids, indices):
  return np.asarray(
      jax.jit(jax.vmap(lambda z: noise(make_batch(ids), z).weight))(indices)
  )


@pytest.mark.parametrize(('law', 'distribution'), CASES)
def test_bootstrap_weights_have_mean_one_and_their_variance(law, distribution):
  indexer = LAWS[law]
  noise = losses.Bootstrap(distribution, indexer=indexer)
  n = 5 if law == 'ensemble' else 200
  w = many_weights(noise, np.arange(2000), indexer.sample(jax.random.key(1), n))
  assert w.min() >= 0
  np.testing.assert_allclose(w.mean(), 1, atol=0.05)
  # A Gaussian index has a length, which varies: its weights vary more.
  atol = 0.05 if law in ('ensemble', 'prng') else 0.7
  np.testing.assert_allclose(w.var(), VARIANCE[distribution], atol=atol)


@pytest.mark.parametrize('law', LAWS)
def test_bootstrap_weight_depends_on_id_and_index_alone(law):
  indexer = LAWS[law]
  noise = losses.Bootstrap(indexer=indexer)
  a, b = indexer.sample(jax.random.key(3), 2)
  ids = np.array([7, 1000000, 3, 7])
  w = weights(noise, ids, a)
  np.testing.assert_array_equal(w, weights(noise, ids, a))
  # ... not on the rest of the batch nor on the position in it.
  np.testing.assert_allclose(weights(noise, ids[[2, 0]], a), w[[2, 0]], 1e-6)
  assert w[0] == w[3]
  assert len(set(w)) == 3
  assert (w != weights(noise, ids, b)).all()
  other_seed = losses.Bootstrap(seed=1, indexer=indexer)
  assert (w != weights(other_seed, ids, a)).all()


@pytest.mark.parametrize('law', LAWS)
def test_bootstrap_maps_over_indices(law):
  indexer = LAWS[law]
  noise = losses.Bootstrap(indexer=indexer)
  indices = indexer.sample(jax.random.key(2), 4)
  ids = np.arange(10)
  mapped = many_weights(noise, ids, indices)
  one_by_one = [weights(noise, ids, z) for z in indices]
  np.testing.assert_allclose(mapped, one_by_one, rtol=1e-5)


def test_bootstrap_scales_the_weight_that_is_there():
  noise = losses.Bootstrap(indexer=LAWS['ensemble'])
  index = jax.nn.one_hot(2, 5)
  batch = make_batch(np.arange(4))
  halved = noise(batch.replace(weight=batch.weight / 2), index).weight
  np.testing.assert_allclose(halved, noise(batch, index).weight / 2, rtol=1e-6)


def test_bootstrap_of_an_ensemble_is_a_draw_from_the_folded_key():
  w = weights(
      losses.Bootstrap(seed=3, indexer=LAWS['ensemble']),
      np.array([11, 4]),
      jax.nn.one_hot(2, 5),
  )
  for i, got in zip([11, 4], w):
    key = jax.random.fold_in(jax.random.key(i + 3), 2)
    np.testing.assert_allclose(got, jax.random.exponential(key), rtol=1e-6)


@pytest.mark.parametrize('law', ['ensemble', 'gaussian', 'scaled', 'unit'])
def test_target_noise_is_gaussian_of_its_std(law):
  indexer = LAWS[law]
  noise = losses.TargetNoise(0.5, indexer=indexer)
  n = 5 if law == 'ensemble' else 200
  indices = indexer.sample(jax.random.key(1), n)
  batch = make_batch(np.arange(2000), outputs=2)
  shift = jax.vmap(lambda z: noise(batch, z).y)(indices)
  assert shift.shape == (n, 2000, 2)
  np.testing.assert_allclose(shift.mean(), 0, atol=0.02)
  np.testing.assert_allclose(shift.std(), 0.5, rtol=0.05)
  # The two outputs of an example are shifted independently.
  r = np.corrcoef(shift[..., 0].ravel(), shift[..., 1].ravel())[0, 1]
  assert abs(r) < 0.05


def test_target_noise_repeats_by_id():
  noise = losses.TargetNoise(1.0, seed=2, indexer=LAWS['gaussian'])
  z, = LAWS['gaussian'].sample(jax.random.key(0), 1)
  y = noise(make_batch(np.array([4, 9, 4])), z).y[:, 0]
  assert y[0] == y[2] != y[1]


def test_noise_of_one_batch_size_is_that_of_another_under_jit():
  noise = losses.Bootstrap('poisson', indexer=LAWS['ensemble'])
  whole = many_weights(noise, np.arange(8), jnp.eye(5))
  halves = [
      many_weights(noise, ids, jnp.eye(5))
      for ids in (np.arange(4), np.arange(4, 8))
  ]
  np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))


@pytest.mark.parametrize('law', ['gaussian', 'scaled', 'unit'])
@pytest.mark.parametrize('distribution', ['poisson', 'uniform'])
def test_distributions_without_a_linear_form_are_refused(law, distribution):
  noise = losses.Bootstrap(distribution)
  with pytest.raises(ValueError, match=r'noise\.\*\.distribution'):
    noise.bind(LAWS[law])


def test_indices_noise_does_not_know_are_refused():
  with pytest.raises(ValueError, match=r'Dirichlet.*config\.objectives'):
    losses.Bootstrap().bind(indexers.DirichletIndexer((1.0, 1.0)))


def test_noise_that_was_not_bound_says_so():
  with pytest.raises(ValueError, match='bind'):
    losses.Bootstrap()(make_batch(np.arange(3)), jnp.ones(5))


def test_noise_refuses_ids_that_are_not_integers():
  noise = losses.Bootstrap(indexer=LAWS['gaussian'])
  with pytest.raises(ValueError, match=r'batch\.id float32'):
    noise(make_batch(np.ones(3, np.float32)), jnp.ones(8))


def test_target_noise_refuses_class_labels():
  noise = losses.TargetNoise(1.0, indexer=LAWS['ensemble'])
  batch = make_batch(np.arange(3)).replace(y=jnp.zeros(3, int))
  with pytest.raises(ValueError, match=r'config\.dataset'):
    noise(batch, jnp.eye(5)[0])


def test_objective_binds_its_noise():
  objective = losses.Objective(
      losses.L2(),
      noise=[losses.TargetNoise(1.0, seed=1), losses.Bootstrap(seed=2)],
  )
  bound = objective.bind(LAWS['ensemble'])
  assert bound.noise == (
      losses.TargetNoise(1.0, seed=1, indexer=LAWS['ensemble']),
      losses.Bootstrap(seed=2, indexer=LAWS['ensemble']),
  )


def test_objective_keeps_an_indexer_that_was_given():
  noise = losses.Bootstrap(indexer=LAWS['ensemble'])
  objective = losses.Objective(losses.L2(), noise=(noise,))
  assert objective.bind(LAWS['gaussian']).noise == (noise,)


def test_objective_refuses_two_noises_of_one_seed():
  with pytest.raises(ValueError, match=r'config\.objectives.*seed'):
    losses.Objective(
        losses.L2(), noise=(losses.TargetNoise(1.0), losses.Bootstrap())
    )


@pytest.mark.parametrize(
    ('weight', 'expected'),
    [(0.5, 0.5), (optax.linear_schedule(0.0, 1.0, 10), 0.3)],
)
def test_objective_weight_is_a_number_or_a_schedule(weight, expected):
  objective = losses.Objective(losses.L2(), weight=weight)
  np.testing.assert_allclose(objective.weight_at(3), expected, rtol=1e-6)
