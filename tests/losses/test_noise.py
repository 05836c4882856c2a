"""Noise on (id, index), and the objective that carries it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import indexers, losses
from flax_enn.core import Batch, Indexer
from flax_enn.data import Loader, two_moons

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


def weights(noise, ids, index, indexer):
  return np.asarray(noise(make_batch(ids), index, indexer).weight)


def many_weights(noise, ids, indices, indexer):
  def at(index):
    return noise(make_batch(ids), index, indexer).weight

  return np.asarray(jax.jit(jax.vmap(at))(indices))


@pytest.mark.parametrize(('law', 'distribution'), CASES)
def test_bootstrap_weights_have_mean_one_and_their_variance(law, distribution):
  indexer = LAWS[law]
  noise = losses.Bootstrap(distribution)
  n = 5 if law == 'ensemble' else 200
  indices = indexer.sample(jax.random.key(1), n)
  w = many_weights(noise, np.arange(2000), indices, indexer)
  assert w.min() >= 0
  np.testing.assert_allclose(w.mean(), 1, atol=0.05)
  # A Gaussian index has a length, which varies: its weights vary more.
  atol = 0.05 if law in ('ensemble', 'prng') else 0.7
  np.testing.assert_allclose(w.var(), VARIANCE[distribution], atol=atol)


@pytest.mark.parametrize('law', LAWS)
def test_bootstrap_weight_depends_on_id_and_index_alone(law):
  indexer = LAWS[law]
  noise = losses.Bootstrap()
  a, b = indexer.sample(jax.random.key(3), 2)
  ids = np.array([7, 1000000, 3, 7])
  w = weights(noise, ids, a, indexer)
  np.testing.assert_array_equal(w, weights(noise, ids, a, indexer))
  # ... not on the rest of the batch nor on the position in it.
  some = weights(noise, ids[[2, 0]], a, indexer)
  np.testing.assert_allclose(some, w[[2, 0]], 1e-6)
  assert w[0] == w[3]
  assert len(set(w)) == 3
  assert (w != weights(noise, ids, b, indexer)).all()
  other_seed = losses.Bootstrap(seed=1)
  assert (w != weights(other_seed, ids, a, indexer)).all()


@pytest.mark.parametrize('law', LAWS)
def test_bootstrap_maps_over_indices(law):
  indexer = LAWS[law]
  noise = losses.Bootstrap()
  indices = indexer.sample(jax.random.key(2), 4)
  ids = np.arange(10)
  mapped = many_weights(noise, ids, indices, indexer)
  one_by_one = [weights(noise, ids, z, indexer) for z in indices]
  np.testing.assert_allclose(mapped, one_by_one, rtol=1e-5)


def test_bootstrap_scales_the_weight_that_is_there():
  noise, indexer = losses.Bootstrap(), LAWS['ensemble']
  index = jax.nn.one_hot(2, 5)
  batch = make_batch(np.arange(4))
  half = batch.replace(weight=batch.weight / 2)
  np.testing.assert_allclose(
      noise(half, index, indexer).weight,
      noise(batch, index, indexer).weight / 2,
      rtol=1e-6,
  )


@pytest.mark.parametrize(
    'indexer', [*LAWS.values(), indexers.DirichletIndexer((1.0, 1.0))]
)
def test_no_bootstrap_leaves_the_weights_of_any_index(indexer):
  noise = losses.Bootstrap('none')
  z, = indexer.sample(jax.random.key(0), 1)
  half = make_batch(np.arange(4)).replace(weight=jnp.full(4, 0.5))
  np.testing.assert_array_equal(noise(half, z, indexer).weight, half.weight)


def test_bootstrap_does_not_repeat_across_the_shards_of_a_batch():
  """enn numbers the examples of every shard from 0."""
  data = two_moons.TwoMoons(n_train=16)
  indexer, index = LAWS['ensemble'], jax.nn.one_hot(1, 5)
  found = []
  for shard in range(2):
    loader = Loader(shard_index=shard, shard_count=2)
    batch = next(
        loader.train_batches(data, data.spec, batch_size=16, seed=0)
    )
    found += losses.Bootstrap()(batch, index, indexer).weight.tolist()
  assert len(set(found)) == 16


def test_target_noise_of_a_key_is_gaussian_of_its_std():
  """enn has none for such an index."""
  noise, indexer = losses.TargetNoise(0.5), LAWS['prng']
  z, = indexer.sample(jax.random.key(1), 1)
  y = noise(make_batch(np.arange(4000), outputs=2), z, indexer).y
  np.testing.assert_allclose([y.mean(), y.std()], [0, 0.5], atol=0.02)


def test_bootstrap_of_an_ensemble_is_a_draw_from_the_folded_key():
  w = weights(
      losses.Bootstrap(seed=3),
      np.array([11, 4]),
      jax.nn.one_hot(2, 5),
      LAWS['ensemble'],
  )
  for i, got in zip([11, 4], w):
    key = jax.random.fold_in(jax.random.key(i + 3), 2)
    np.testing.assert_allclose(got, jax.random.exponential(key), rtol=1e-6)


@pytest.mark.parametrize('law', ['ensemble', 'gaussian', 'scaled', 'unit'])
def test_target_noise_is_gaussian_of_its_std(law):
  indexer = LAWS[law]
  noise = losses.TargetNoise(0.5)
  n = 5 if law == 'ensemble' else 200
  indices = indexer.sample(jax.random.key(1), n)
  batch = make_batch(np.arange(2000), outputs=2)
  shift = jax.vmap(lambda z: noise(batch, z, indexer).y)(indices)
  assert shift.shape == (n, 2000, 2)
  np.testing.assert_allclose(shift.mean(), 0, atol=0.02)
  np.testing.assert_allclose(shift.std(), 0.5, rtol=0.05)
  # The two outputs of an example are shifted independently.
  r = np.corrcoef(shift[..., 0].ravel(), shift[..., 1].ravel())[0, 1]
  assert abs(r) < 0.05


def test_target_noise_repeats_by_id():
  noise, indexer = losses.TargetNoise(1.0, seed=2), LAWS['gaussian']
  z, = indexer.sample(jax.random.key(0), 1)
  y = noise(make_batch(np.array([4, 9, 4])), z, indexer).y[:, 0]
  assert y[0] == y[2] != y[1]


def test_noise_of_one_batch_size_is_that_of_another_under_jit():
  noise, indexer = losses.Bootstrap('poisson'), LAWS['ensemble']
  whole = many_weights(noise, np.arange(8), jnp.eye(5), indexer)
  halves = [
      many_weights(noise, ids, jnp.eye(5), indexer)
      for ids in (np.arange(4), np.arange(4, 8))
  ]
  np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))


@pytest.mark.parametrize('law', ['gaussian', 'scaled', 'unit'])
@pytest.mark.parametrize('distribution', ['poisson', 'uniform'])
def test_distributions_without_a_linear_form_are_refused(law, distribution):
  indexer = LAWS[law]
  z, = indexer.sample(jax.random.key(0), 1)
  with pytest.raises(ValueError, match=f"distribution is '{distribution}'.*Ga"):
    losses.Bootstrap(distribution)(make_batch(np.arange(3)), z, indexer)


@pytest.mark.parametrize('noise', [losses.Bootstrap(), losses.TargetNoise(1.0)])
def test_indices_noise_does_not_know_are_refused(noise):
  """A Dirichlet index is a float vector too, and means neither of the two."""
  indexer = indexers.DirichletIndexer((1.0, 1.0))
  z, = indexer.sample(jax.random.key(0), 1)
  says = rf'{type(noise).__name__} is defined for .*DirichletIndexer'
  with pytest.raises(ValueError, match=says):
    noise(make_batch(np.arange(3)), z, indexer)


@dataclasses.dataclass(frozen=True)
class TwoOfThem:
  """An indexer from outside: one of two functions, by a one-hot index."""

  size: int = 2
  mean_index: None = None

  def sample(self, key, n):
    return jax.nn.one_hot(jax.random.randint(key, (n,), 0, 2), 2)

  def standardize(self, index):
    del index


@dataclasses.dataclass(frozen=True)
class Shifted:
  """An indexer from outside: Gaussian, about 7 and of deviation 2."""

  size: None = None

  @property
  def mean_index(self):
    return jnp.full(8, 7.0)

  def sample(self, key, n):
    return 7 + 2 * jax.random.normal(key, (n, 8))

  def standardize(self, index):
    return (index - 7) / 2 / np.sqrt(8)


@pytest.mark.parametrize(
    ('outside', 'known', 'to_known'),
    [
        (TwoOfThem(), indexers.EnsembleIndexer(2), lambda z: z),
        (Shifted(), LAWS['gaussian'], lambda z: (z - 7) / 2),
    ],
    ids=['finite', 'gaussian'],
)
def test_indexers_from_outside_get_noise(outside, known, to_known):
  """By what they say of themselves, not by their class."""
  assert isinstance(outside, Indexer)
  ids = np.arange(50)
  for z in outside.sample(jax.random.key(0), 3):
    found = weights(losses.Bootstrap(), ids, z, outside)
    expected = weights(losses.Bootstrap(), ids, to_known(z), known)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    y = losses.TargetNoise(1.0)(make_batch(ids), z, outside).y
    assert 0.5 < np.std(y) < 2


@dataclasses.dataclass(frozen=True)
class Numbered(TwoOfThem):
  """An indexer from outside: the number of a member, as in enn."""

  size: int = 4

  def sample(self, key, n):
    return jax.random.randint(key, (n,), 0, self.size)


@pytest.mark.parametrize('noise', [losses.Bootstrap(), losses.TargetNoise(1.0)])
def test_the_number_of_a_member_is_its_one_hot_index(noise):
  batch, known = make_batch(np.arange(9)), indexers.EnsembleIndexer(4)
  for number in range(4):
    found = noise(batch, jnp.int32(number), Numbered())
    expected = noise(batch, jax.nn.one_hot(number, 4), known)
    np.testing.assert_array_equal(found.weight, expected.weight)
    np.testing.assert_array_equal(found.y, expected.y)


@pytest.mark.parametrize('noise', [losses.Bootstrap(), losses.TargetNoise(1.0)])
@pytest.mark.parametrize('index', [jnp.ones(()), jnp.eye(4), jnp.ones(5)])
def test_another_index_of_a_finite_indexer_is_refused(noise, index):
  says = rf'{type(noise).__name__} found an index .*Numbered.*one-hot \[4\]'
  with pytest.raises(ValueError, match=says):
    noise(make_batch(np.arange(3)), index, Numbered())


class OfRank(Shifted):
  """An indexer from outside, whose `standardize` keeps any shape."""

  def standardize(self, index):
    return index


@pytest.mark.parametrize('noise', [losses.Bootstrap(), losses.TargetNoise(1.0)])
@pytest.mark.parametrize('shape', [(), (4, 4), (0,)])
def test_a_standardized_index_that_is_not_a_vector_is_refused(noise, shape):
  says = rf'{type(noise).__name__} projects a vector .*OfRank.*gives'
  with pytest.raises(ValueError, match=says):
    noise(make_batch(np.arange(4)), jnp.ones(shape), OfRank())


def test_noise_refuses_ids_that_are_not_integers():
  noise = losses.Bootstrap()
  with pytest.raises(ValueError, match=r'batch\.id float32'):
    noise(make_batch(np.ones(3, np.float32)), jnp.ones(8), LAWS['gaussian'])


def test_target_noise_refuses_class_labels():
  noise = losses.TargetNoise(1.0)
  batch = make_batch(np.arange(3)).replace(y=jnp.zeros(3, int))
  with pytest.raises(ValueError, match=r'found targets int32\[3\]'):
    noise(batch, jnp.eye(5)[0], LAWS['ensemble'])


def test_objective_keeps_its_noise_as_a_tuple():
  noise = [losses.TargetNoise(1.0, seed=1), losses.Bootstrap(seed=2)]
  objective = losses.Objective(losses.L2(), noise=noise)
  assert objective.noise == tuple(noise)
  assert hash(objective) == hash(losses.Objective(losses.L2(), noise=noise))


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        (
            {'noise': (losses.TargetNoise(1.0), losses.Bootstrap())},
            r'seeds \[0, 0\].*distinct',
        ),
        (
            {'noise': (losses.Bootstrap(),), 'across': True},
            'noise is that of one index.*across',
        ),
        (
            {'indices': {'mean': losses.MeanIndex(), 'all': None}},
            r"names \['all', 'mean'\].*across to True",
        ),
    ],
    ids=['seeds', 'noise across', 'names'],
)
def test_objectives_that_contradict_themselves_are_refused(fields, says):
  with pytest.raises(ValueError, match=says):
    losses.Objective(losses.L2(), **fields)


@pytest.mark.parametrize('law', sorted(set(LAWS) - {'prng'}))
def test_mean_index_is_that_of_the_indexer(law):
  indexer = LAWS[law]
  found = losses.MeanIndex()(indexer, jax.random.key(0))
  np.testing.assert_array_equal(found, indexer.mean_index[None])


def test_a_law_without_a_mean_is_refused():
  with pytest.raises(ValueError, match='which has none'):
    losses.MeanIndex()(LAWS['prng'], jax.random.key(0))


@pytest.mark.parametrize(
    ('weight', 'expected'),
    [(0.5, 0.5), (optax.linear_schedule(0.0, 1.0, 10), 0.3)],
)
def test_objective_weight_is_a_number_or_a_schedule(weight, expected):
  objective = losses.Objective(losses.L2(), weight=weight)
  np.testing.assert_allclose(objective.weight_at(3), expected, rtol=1e-6)
