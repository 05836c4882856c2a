"""Likelihoods against densities of scipy and numerical integrals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flax_enn.likelihoods import Categorical, Gaussian, TwoHot

B = 7
TWO_HOT = TwoHot(-1.0, 2.0, 6)
SHIFTED = TwoHot(-1.0, 2.0, 6, shift=True)
UNEVEN = TwoHot(atoms=(-1.0, -0.8, 0.1, 0.2, 1.0, 2.0))

# Each with outputs [B, C] and targets of it.
_RNG = np.random.default_rng(0)
CASES = {
    'categorical': (
        Categorical(4),
        2 * _RNG.normal(size=(B, 4)),
        _RNG.integers(0, 4, B).astype(np.int32),
    ),
    'tempered': (
        Categorical(4, temperature=3.0),
        2 * _RNG.normal(size=(B, 4)),
        _RNG.integers(0, 4, B).astype(np.int32),
    ),
    'gaussian': (
        Gaussian(2, scale=0.5),
        _RNG.normal(size=(B, 2)),
        _RNG.normal(size=(B, 2)),
    ),
    'learned variance': (
        Gaussian(2, scale=None),
        _RNG.normal(size=(B, 4)),
        _RNG.normal(size=(B, 2)),
    ),
    'two-hot': (
        TWO_HOT,
        2 * _RNG.normal(size=(B, 6)),
        _RNG.uniform(-1, 2, size=(B, 1)),
    ),
    'uneven': (
        UNEVEN,
        2 * _RNG.normal(size=(B, 6)),
        _RNG.uniform(-1, 2, size=(B, 1)),
    ),
    'shifted': (
        SHIFTED,
        np.append(2 * _RNG.normal(size=(B, 6)), np.full((B, 1), 0.5), 1),
        _RNG.uniform(-0.5, 2.5, size=(B, 1)),
    ),
}


def reference(name):
  """The log-density of each target in float64."""
  likelihood, outputs, y = CASES[name]
  if isinstance(likelihood, Categorical):
    logits = outputs / likelihood.temperature
    return scipy.special.log_softmax(logits, -1)[np.arange(B), y]
  if isinstance(likelihood, Gaussian):
    mean, std = outputs[:, :2], likelihood.scale
    if std is None:
      std = np.exp(outputs[:, 2:] / 2)
    return scipy.stats.norm.logpdf(y, mean, std).sum(-1)
  shift = outputs[:, 6:].sum(-1)
  return np.log(histogram(likelihood, outputs[:, :6], y[:, 0] - shift))


def histogram(likelihood, outputs, y):
  """The density of y `[B]`, hat by hat.

  One that is not at an end has the mass b / (a + b) over the distance a to the
  atom before it and a / (a + b) over b to the next, so that its mean is a b / 3
  - b a / 3 away from its own atom.
  """
  probs, atoms = scipy.special.softmax(outputs, -1), likelihood.places
  density = 0.0
  for k, hat in enumerate(np.eye(len(atoms))):
    before, after = np.diff(atoms[max(k - 1, 0) : k + 2])[[0, -1]]
    mass = np.where(y < atoms[k], after, before) / (before + after)
    width = np.where(y < atoms[k], before, after)
    mass = 1 if k in (0, len(atoms) - 1) else mass
    density += probs[:, k] * np.interp(y, atoms, hat) * 2 * mass / width
  return density


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('x64', [False, True])
def test_log_densities(name, x64):
  likelihood, outputs, y = CASES[name]
  with jax.enable_x64(x64):
    found = likelihood.log_prob(jnp.asarray(outputs), jnp.asarray(y))
    assert found.dtype == (jnp.float64 if x64 else jnp.float32)
    assert outputs.shape[1] == likelihood.outputs
    assert y.shape[1:] == likelihood.target.shape
    tolerance = 1e-12 if x64 else 1e-5
    np.testing.assert_allclose(
        found, reference(name), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize('name', CASES)
def test_half_precision_is_left_before_logarithms(name):
  likelihood, outputs, y = CASES[name]
  half = jnp.asarray(outputs, jnp.bfloat16)
  found = likelihood.log_prob(half, jnp.asarray(y))
  expected = likelihood.log_prob(half.astype(jnp.float32), jnp.asarray(y))
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, expected)
  for value in jax.tree.leaves(likelihood.moments(half)):
    assert value.dtype == jnp.float32


@pytest.mark.parametrize('name', CASES)
def test_axes_in_front_are_indices(name):
  likelihood, outputs, y = CASES[name]
  several = jnp.stack([outputs, outputs + 1, 2 * outputs])[:, None]
  found = likelihood.log_prob(several, jnp.asarray(y))
  assert found.shape == (3, 1, B)
  for outputs_at, log_prob in zip(several[:, 0], found[:, 0]):
    np.testing.assert_allclose(
        log_prob, likelihood.log_prob(outputs_at, y), rtol=1e-6
    )


@pytest.mark.parametrize('name', ['two-hot', 'uneven'])
def test_two_hot_is_a_density_with_the_moments_it_says(name):
  """By the trapezoidal rule, which is exact between two atoms."""
  likelihood, outputs, _ = CASES[name]
  # (At an atom the two halves of a hat may have unequal heights.)
  atoms, rest = likelihood.places[1:-1], np.linspace(-1, 2, 3001)
  grid = np.unique(np.append(rest, [atoms - 1e-6, atoms + 1e-6]))

  def log_prob(y):
    return likelihood.log_prob(jnp.asarray(outputs), jnp.full((B, 1), y))

  density = np.exp(jax.vmap(log_prob)(grid))
  mean, variance = (v[:, 0] for v in likelihood.moments(jnp.asarray(outputs)))
  total = np.trapezoid(density, grid, axis=0)
  np.testing.assert_allclose(total, 1, rtol=1e-4)
  centre = np.trapezoid(density * grid[:, None], grid, axis=0)
  np.testing.assert_allclose(mean, centre, rtol=1e-4, atol=1e-5)
  squares = np.square(grid[:, None] - centre)
  spread = np.trapezoid(density * squares, grid, axis=0)
  np.testing.assert_allclose(variance, spread, rtol=1e-4)


def test_atoms_at_equal_distances_may_be_written_out():
  _, outputs, y = CASES['two-hot']
  same = TwoHot(atoms=np.linspace(-1.0, 2.0, 6))
  assert same.outputs == 6 and same.target == TWO_HOT.target
  for method in ('log_prob', 'moments'):
    given = (outputs, y) if method == 'log_prob' else (outputs,)
    np.testing.assert_array_equal(
        getattr(same, method)(*map(jnp.asarray, given)),
        getattr(TWO_HOT, method)(*map(jnp.asarray, given)),
    )


def test_two_hot_targets_of_uneven_atoms():
  """The weight of an atom is linear between it and each of its neighbours."""
  atoms = UNEVEN.places
  y = np.append(np.linspace(-1.5, 2.5, 41), atoms)
  weights = UNEVEN.two_hot(y[:, None])
  hats = [np.interp(y, atoms, hat) for hat in np.eye(6)]
  np.testing.assert_allclose(weights, np.stack(hats, -1), atol=1e-6)
  np.testing.assert_allclose(weights @ atoms, y.clip(-1, 2), atol=1e-6)


def test_the_mean_of_an_inner_atom_is_that_atom():
  sure = jnp.where(jnp.eye(6) > 0, 200.0, 0.0)
  mean, variance = UNEVEN.moments(sure)
  np.testing.assert_allclose(mean[1:-1, 0], UNEVEN.places[1:-1], rtol=1e-5)
  gaps = np.diff(UNEVEN.places)
  np.testing.assert_allclose(
      variance[1:-1, 0], gaps[:-1] * gaps[1:] / 6, rtol=1e-4
  )


def test_two_hot_at_its_atoms():
  """All of the mass at one atom: the density there is that of its hat."""
  atoms = np.linspace(-1, 2, 6)
  sure = jnp.where(jnp.eye(6) > 0, 200.0, 0.0)
  found = jnp.exp(TWO_HOT.log_prob(sure, atoms[:, None]))
  heights = np.array([2, 1, 1, 1, 1, 2]) / 0.6
  np.testing.assert_allclose(found, heights, rtol=1e-5)
  gradient = jax.grad(lambda o: TWO_HOT.log_prob(o, atoms[:, None]).sum())
  assert jnp.isfinite(gradient(sure)).all()
  assert jnp.isfinite(gradient(jnp.zeros((6, 6)))).all()


def test_gaussian_moments():
  likelihood, outputs, _ = CASES['learned variance']
  mean, variance = likelihood.moments(jnp.asarray(outputs))
  np.testing.assert_allclose(mean, outputs[:, :2], rtol=1e-6)
  np.testing.assert_allclose(variance, np.exp(outputs[:, 2:]), rtol=1e-5)
  mean, variance = Gaussian(2, scale=0.5).moments(jnp.asarray(outputs[:, :2]))
  np.testing.assert_allclose(variance, np.full((B, 2), 0.25))


@pytest.mark.parametrize('log_variance', [-1e4, 1e4])
def test_learned_variances_stay_finite(log_variance):
  outputs = jnp.array([[0.0, log_variance]])

  def loss(outputs):
    return -Gaussian(1, scale=None).log_prob(outputs, jnp.ones((1, 1))).sum()

  value, gradient = jax.value_and_grad(loss)(outputs)
  assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize('label', [-1, 4])
def test_a_label_that_is_not_a_class_is_nan(label):
  found = Categorical(4).log_prob(jnp.zeros((2, 4)), jnp.array([label, 1]))
  assert jnp.isnan(found).tolist() == [True, False]


@pytest.mark.parametrize('y', [-1.001, 2.001])
def test_a_target_beyond_the_atoms_is_nan(y):
  assert jnp.isnan(TWO_HOT.log_prob(jnp.zeros((1, 6)), jnp.array([[y]])))


def test_a_shift_moves_all_atoms():
  """Then a target that they do not reach is possible, and has density 0."""
  _, outputs, _ = CASES['shifted']
  mean, variance = SHIFTED.moments(jnp.asarray(outputs))
  still, spread = TWO_HOT.moments(jnp.asarray(outputs[:, :6]))
  np.testing.assert_allclose(mean, still + 0.5, rtol=1e-5)
  np.testing.assert_array_equal(variance, spread)
  found = SHIFTED.log_prob(jnp.asarray(outputs[:2]), np.array([[-0.6], [2.6]]))
  assert np.isneginf(found).all()
  bad, _ = SHIFTED.check_targets(np.array([[-9.0], [9.0]]))
  assert not bad.any()


def test_which_targets_are_refused():
  bad, expected = TWO_HOT.check_targets(np.array([[-1.0], [2.0], [2.1], [-2]]))
  assert bad.tolist() == [False, False, True, True]
  assert 'between -1.0 and 2.0' in expected
  bad, expected = UNEVEN.check_targets(np.float32([[-1], [2], [2.1], [-2]]))
  assert bad.tolist() == [False, False, True, True]
  assert 'between -1.0 and 2.0' in expected
  bad, expected = Categorical(3).check_targets(np.array([0, 2, 3, -1]))
  assert bad.tolist() == [False, False, True, True]
  assert expected == 'labels are 0 to 2'
  bad, _ = Gaussian(2).check_targets(np.zeros((3, 2)))
  assert bad.tolist() == [False] * 3


def test_temperature_is_that_of_logits():
  hot = Categorical(3).tempered(2.0)
  assert hot == Categorical(3, temperature=2.0)
  assert hot.tempered(1.0) == Categorical(3)
  for likelihood in (Gaussian(1), TWO_HOT):
    assert likelihood.tempered(1.0) == likelihood
    with pytest.raises(ValueError, match=r'temperature is 2\.0, .*leave it at'):
      likelihood.tempered(2.0)


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: Categorical(0), 'classes is 0'),
        (lambda: Categorical(2, temperature=0.0), r'temperature is 0\.0'),
        (lambda: Categorical(2, float('inf')), 'temperature is inf'),
        (lambda: Gaussian(0), 'dim is 0'),
        (lambda: Gaussian(1, scale=-1.0), r'scale is -1\.0.*None to learn'),
        (lambda: TwoHot(1.0, 1.0, 5), r'low must\s+be below high'),
        (lambda: TwoHot(0.0, 1.0, 1), 'at least 2 atoms'),
        (lambda: TwoHot(), r'are \[\].*at least 2 finite numbers'),
        (lambda: TwoHot(0.0, 1.0), 'low is 0.0.*list.*leave low and high out'),
        (lambda: TwoHot(atoms=3), 'low is None.*low must be below high'),
        (lambda: TwoHot(high=1.0, atoms=(0, 1)), 'leave low and high out'),
        (lambda: TwoHot(atoms=(1.0,)), r'are \[1\.0\].*at least 2'),
        (lambda: TwoHot(atoms=(0.0, 2.0, 1.0)), 'above the one before'),
        (lambda: TwoHot(atoms=(0.0, 1.0, 1.0 + 1e-9)), 'above the one before'),
        (lambda: TwoHot(atoms=(0.0, float('inf'))), 'finite numbers'),
        (lambda: TwoHot(atoms=(0.0, float('nan'))), 'finite numbers'),
    ],
)
def test_wrong_fields(make, message):
  with pytest.raises(ValueError, match=message):
    make()


@pytest.mark.parametrize('name', CASES)
def test_likelihoods_are_values(name):
  """Static arguments of jit, and pure numbers in a run's folder."""
  likelihood, _, _ = CASES[name]
  again = dataclasses.replace(likelihood)
  assert again == likelihood and hash(again) == hash(likelihood)


@pytest.mark.parametrize(
    'logits, expected',
    [
        ([0.0, 0.0, -np.inf], np.log(2)),
        ([0.0, 1e4, -1e4], 0.0),
        ([0.3, -0.2, 1.1], None),
    ],
)
def test_entropy_is_of_the_probabilities_even_where_they_underflow(
    logits, expected
):
  likelihood = Categorical(3, temperature=0.5)
  if expected is None:
    p = np.exp(np.array(logits) / 0.5)
    p /= p.sum()
    expected = -(p * np.log(p)).sum()
  np.testing.assert_allclose(
      likelihood.entropy(jnp.array(logits)), expected, rtol=1e-6, atol=1e-6
  )
