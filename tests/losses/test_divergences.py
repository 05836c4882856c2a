"""Losses of weights, codes and generated inputs against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from flax_enn import losses
from flax_enn.core import Batch, Output
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.combined import Combined
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.variational_last_layer import VariationalLastLayer

B, C, D = 6, 4, 2
EXAMPLES = 50
RNG = np.random.default_rng(0)
MEAN = {'a': RNG.normal(size=(2, 3)), 'b': RNG.normal(size=4)}
RHO = {'a': RNG.normal(size=(2, 3)), 'b': RNG.normal(size=4)}
GENERATED = {'a': RNG.normal(size=(2, 3)), 'b': RNG.normal(size=4)}
OUTPUT = Output(jnp.zeros((B, C)), extra={'generated': GENERATED})


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


SIGMA = np.log1p(np.exp(flat(RHO)))


def score(loss, output=OUTPUT, params=None, likelihood=None, **batch):
  """The loss, called as the step calls it."""
  ones = np.ones(B)
  fields = {'x': np.zeros((B, 1)), 'y': np.zeros(B, int), **batch}
  return loss(
      output,
      Batch(weight=ones, id=np.arange(B), mask=ones, **fields),
      index=jnp.zeros(D),
      variables={'params': params or {}},
      context=losses.Context(jnp.int32(0), EXAMPLES, likelihood),
  )


def normal_logpdf(x, mean, scale):
  return scipy.stats.norm.logpdf(x, mean, scale)


def test_diagonal_kl_is_the_integral_of_the_log_ratio():
  """Of each weight by itself, over a grid."""
  found = score(losses.DiagonalKL(0.7), params={'mean': MEAN, 'rho': RHO})
  total = 0.0
  for mean, sigma in zip(flat(MEAN), SIGMA):
    u = np.linspace(mean - 10 * sigma, mean + 10 * sigma, 4001)
    q = normal_logpdf(u, mean, sigma)
    total += np.trapezoid(np.exp(q) * (q - normal_logpdf(u, 0, 0.7)), u)
  np.testing.assert_allclose(found, total / EXAMPLES, rtol=1e-5)


def test_diagonal_kl_is_least_at_the_prior():
  rho = jax.tree.map(lambda a: np.full(a.shape, np.log(np.expm1(0.7))), RHO)
  zero = jax.tree.map(np.zeros_like, MEAN)
  value, grads = jax.value_and_grad(
      lambda params: score(losses.DiagonalKL(0.7), params=params)
  )({'mean': zero, 'rho': rho})
  np.testing.assert_allclose(value, 0, atol=1e-7)
  np.testing.assert_allclose(flat(grads), 0, atol=1e-7)


def test_diagonal_kl_of_a_vanishing_spread_is_finite():
  params = {'mean': {'a': np.zeros(1)}, 'rho': {'a': np.full(1, -200.0)}}
  value, grads = jax.value_and_grad(
      lambda params: score(losses.DiagonalKL(1.0), params=params)
  )(params)
  np.testing.assert_allclose(value, (200 - 0.5) / EXAMPLES, rtol=1e-5)
  np.testing.assert_allclose(grads['rho']['a'], -1 / EXAMPLES, rtol=1e-5)


def test_linear_kl_of_as_many_directions_as_weights_is_that_of_gaussians():
  """u = z W + b then has a density: N(b, s^2 W'W)."""
  scale, weights = 0.7, 10
  w = RNG.normal(size=(weights, weights))
  directions = {
      'a': w[:, :6].reshape(weights, 2, 3),
      'b': w[:, 6:],
  }
  params = {'mean': MEAN, 'directions': directions}
  found = score(losses.LinearKL(scale), params=params)
  cov = w.T @ w
  b = flat(MEAN)
  expected = np.trace(cov) - weights - np.linalg.slogdet(cov)[1]
  expected = 0.5 * (expected + b @ b / scale**2)
  np.testing.assert_allclose(found, expected / EXAMPLES, rtol=1e-3)


def test_linear_kl_has_a_gradient_where_directions_are_orthogonal():
  params = {'mean': {'a': jnp.ones(3)}, 'directions': {'a': jnp.eye(3)}}
  grads = jax.grad(lambda p: score(losses.LinearKL(), params=p))(params)
  # Of (tr S - log det S) / 2 it is 0 there, and b' S^-1 b / 2 is what is left.
  found = EXAMPLES * grads['directions']['a']
  np.testing.assert_allclose(found, 0, atol=1e-4)
  np.testing.assert_allclose(EXAMPLES * grads['mean']['a'], 1, rtol=1e-4)


@pytest.mark.parametrize('share', [0.0, 0.6, 1.0])
def test_mixture_kl_is_the_log_ratio_at_the_weights(share):
  loss = losses.MixtureKL(0.7, 0.3, share)
  found = score(loss, params={'mean': MEAN, 'rho': RHO})
  u = flat(GENERATED)
  p = share * scipy.stats.norm.pdf(u, 0, 0.7)
  p += (1 - share) * scipy.stats.norm.pdf(u, 0, 0.3)
  expected = (normal_logpdf(u, flat(MEAN), SIGMA) - np.log(p)).sum()
  np.testing.assert_allclose(found, expected / EXAMPLES, rtol=1e-5)


@pytest.mark.parametrize('rho', [-60.0, -90.0, -104.0, -300.0])
def test_mixture_kl_of_a_vanishing_spread_is_finite(rho):
  """From -44 on the square of the spread underflows, from -104 on itself."""
  noise = jnp.array([3.0])

  def value(params):
    m, r = params['mean']['a'], params['rho']['a']
    generated = {'a': m + jax.nn.softplus(r) * noise}
    output = OUTPUT.replace(extra={'generated': generated})
    return score(losses.MixtureKL(0.7, 0.3, 0.5), output, params)

  params = {'mean': {'a': jnp.ones(1)}, 'rho': {'a': jnp.full(1, rho)}}
  found, grads = jax.value_and_grad(value)(params)
  p = scipy.stats.norm.pdf(1, 0, [0.7, 0.3]).mean()
  expected = -rho - 0.5 * np.log(2 * np.pi) - np.log(p)
  np.testing.assert_allclose(found, expected / EXAMPLES, rtol=1e-5)
  np.testing.assert_allclose(grads['rho']['a'], -1 / EXAMPLES, rtol=1e-5)
  assert np.isfinite(grads['mean']['a']).all()


def test_mixture_kl_of_far_weights_is_finite():
  far = OUTPUT.replace(extra={'generated': {'a': jnp.full((2, 3), 100.0)}})
  params = {'mean': {'a': MEAN['a']}, 'rho': {'a': RHO['a']}}
  loss = losses.MixtureKL(0.5, 0.01, 0.5)
  assert np.isfinite(score(loss, far, params))


def test_flow_kl_is_the_log_ratio():
  extra = {'latent': GENERATED, 'log_prob': jnp.array([1.5])}
  found = score(losses.FlowKL(0.7), OUTPUT.replace(extra=extra))
  expected = 1.5 - normal_logpdf(flat(GENERATED), 0, 0.7).sum()
  np.testing.assert_allclose(found, expected / EXAMPLES, rtol=1e-5)


@pytest.mark.parametrize(
    'loss', [losses.DiagonalKL(), losses.LinearKL(), losses.MixtureKL()]
)
def test_a_network_without_a_posterior_is_refused(loss):
  with pytest.raises(ValueError, match=r"the network has \['base'\]"):
    score(loss, params={'base': MEAN})


def without(loss, output, params=None):
  """What is said where the network lacks what a loss needs."""
  with pytest.raises(ValueError) as raised:
    score(loss, output, params, Categorical(C))
  return str(raised.value)


@pytest.mark.parametrize(
    ('loss', 'missing'),
    [
        (losses.FlowKL(), "['latent', 'log_prob']"),
        (losses.LatentKL(), "['latent_mean', 'latent_log_var']"),
        (losses.MixtureKL(), "['generated']"),
        (losses.Reconstruction('bernoulli'), "['out_mean']"),
        (losses.Reconstruction(), "['out_mean', 'out_log_var']"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_extra_outputs_that_are_not_there_are_named(loss, missing):
  output = Output(jnp.zeros((B, C)), extra={'hidden': jnp.zeros((B, 1))})
  said = without(loss, output, {'mean': MEAN, 'rho': RHO})
  assert f"extra outputs {missing}, but those of the network are ['hid" in said


@pytest.mark.parametrize(
    'loss', [losses.DistillMean(), losses.DistillVariance()], ids=repr
)
@pytest.mark.parametrize('output', [OUTPUT, {'mean': OUTPUT}], ids=['one', 'a'])
def test_distillation_without_its_indices_is_refused(loss, output):
  assert 'set across=True and indices={"mean": Mean' in without(loss, output)


@pytest.mark.parametrize('bad', [0.0, -1.0, np.nan, np.inf])
@pytest.mark.parametrize(
    ('loss', 'field'),
    [
        (losses.DiagonalKL, 'prior_scale'),
        (losses.LinearKL, 'prior_scale'),
        (losses.FlowKL, 'prior_scale'),
        (losses.DistillVariance, 'least'),
        (losses.MixtureKL, 'scale_1'),
        (losses.MixtureKL, 'scale_2'),
    ],
)
def test_scales_that_are_none_are_refused(loss, field, bad):
  says = f'`{field}` of {loss.__name__} is {bad}'
  with pytest.raises(ValueError, match=says):
    loss(**{field: bad})


@pytest.mark.parametrize('bad', [-1.0, np.nan, np.inf])
@pytest.mark.parametrize('by_path', [False, True])
def test_factors_of_a_penalty_that_are_none_are_refused(by_path, bad):
  with pytest.raises(ValueError, match=f'scale is {bad}'):
    losses.L2Penalty({'kernel': bad} if by_path else bad)


@pytest.mark.parametrize(
    'loss',
    [losses.DiagonalKL(), losses.MixtureKL(0.7, 0.3, 0.5), losses.LinearKL()],
    ids=repr,
)
def test_a_posterior_is_found_inside_other_networks(loss):
  second = 'directions' if isinstance(loss, losses.LinearKL) else 'rho'
  rows = {name: np.stack([leaf, RNG.normal(size=leaf.shape)])
          for name, leaf in RHO.items()}  # fmt: skip
  inner = {'mean': MEAN, second: rows if second == 'directions' else RHO}
  base = {'layer_0': {'kernel': np.ones((2, 2))}}
  found = score(loss, params={'base': base, 'net': {'head': inner}})
  assert found == score(loss, params=inner)
  with pytest.raises(ValueError, match=r"has them in \['/base', '/net/head'\]"):
    score(loss, params={'base': inner, 'net': {'head': inner}})


def test_linear_kl_refuses_a_hypermodel_with_a_torso():
  net = Hypermodel(MLP((), 2), index_dim=3, hiddens=(4,))
  x, z = np.zeros((1, 2)), jnp.zeros(3)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x, z)['params']
  params = jax.tree.map(lambda leaf: np.ones(leaf.shape), shapes)
  with pytest.raises(ValueError, match=r'linear in the index.*`hiddens` to \('):
    score(losses.LinearKL(), params={'net': params})


@pytest.mark.parametrize('wrap', ['rescaled', 'combined'])
@pytest.mark.parametrize('bayesian', ['bayes_by_backprop', 'last_layer'])
def test_a_wrapped_bayesian_network_has_an_elbo(bayesian, wrap):
  """Its divergence is that of the log-densities of the weights it draws."""
  net = BayesByBackprop(MLP((), 2), init_scale=0.5)
  if bayesian == 'last_layer':
    net = VariationalLastLayer(MLP((), 3), ('logits',), 2, init_scale=0.5)
  outer = Rescaled(net) if wrap == 'rescaled' else Combined(MLP((), 3), net)
  name = 'net' if wrap == 'rescaled' else 'head'
  x, key = np.float32(RNG.normal(size=(B, 3))), jax.random.key(1)
  out, variables = outer.init_with_output(jax.random.key(0), x, key)
  params = variables['params']
  found = score(losses.MixtureKL(0.7), out, params)
  mean, rho = (params[name][tree] for tree in ('mean', 'rho'))
  u = flat(out.extra['generated'])
  q = normal_logpdf(u, flat(mean), np.log1p(np.exp(flat(rho))))
  expected = (q - normal_logpdf(u, 0, 0.7)).sum() / EXAMPLES
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  assert np.isfinite(score(losses.DiagonalKL(), out, params))


def test_a_variational_last_layer_emits_the_weights_it_ran_with():
  x = np.float32(RNG.normal(size=(B, 3)))
  net = VariationalLastLayer(MLP((), 3), ('logits',), 2, init_scale=0.5)
  noise = [RNG.normal(size=2), RNG.normal(size=(3, 2))]  # bias, kernel
  out, variables = net.init_with_output(jax.random.key(0), x, noise)
  params = variables['params']
  weights = out.extra['generated']
  assert jax.tree.structure(weights) == jax.tree.structure(params['mean'])
  for name, draw in zip(('bias', 'kernel'), noise):
    mean, rho = (params[tree][name] for tree in ('mean', 'rho'))
    expected = mean + np.log1p(np.exp(rho)) * draw
    np.testing.assert_allclose(weights[name], expected, rtol=1e-5, atol=1e-6)
  layer = params['base']['layer_0']
  phi = x @ layer['kernel'] + layer['bias']
  expected = phi @ weights['kernel'] + weights['bias']
  np.testing.assert_allclose(out.preds, expected, rtol=1e-4, atol=1e-5)


def test_reconstruction_is_the_log_loss_of_the_input():
  x = RNG.uniform(size=(B, 3))
  mean, log_var = RNG.normal(size=(2, B, 3))
  extra = {'out_mean': mean, 'out_log_var': log_var}
  out = OUTPUT.replace(extra=extra)
  found = score(losses.Reconstruction('gaussian'), out, x=x)
  expected = -normal_logpdf(x, mean, np.exp(log_var / 2)).sum(-1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  found = score(losses.Reconstruction('bernoulli'), out, x=x)
  p = 1 / (1 + np.exp(-mean))
  expected = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum(-1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  # A logit that saturates.
  sure = OUTPUT.replace(extra={'out_mean': jnp.full((B, 3), 1e4)})
  value = score(losses.Reconstruction('bernoulli'), sure, x=np.ones((B, 3)))
  np.testing.assert_array_equal(value, 0)


def test_latent_kl_is_the_integral_of_the_log_ratio():
  mean, log_var = RNG.normal(size=(2, B, 1))
  extra = {'latent_mean': mean, 'latent_log_var': log_var}
  found = score(losses.LatentKL(), OUTPUT.replace(extra=extra))
  for b in range(B):
    sigma = np.exp(log_var[b] / 2)
    u = np.linspace(mean[b] - 10 * sigma, mean[b] + 10 * sigma, 4001)[:, 0]
    q = normal_logpdf(u, mean[b], sigma)
    ratio = np.exp(q) * (q - normal_logpdf(u, 0, 1))
    np.testing.assert_allclose(found[b], np.trapezoid(ratio, u), rtol=1e-5)


def test_accuracy_error_counts_wrong_predictions():
  train = jax.nn.one_hot(jnp.array([0, 1, 2, 3, 0, 1]), C)
  y = np.array([0, 1, 3, 3, 1, 2])
  found = score(losses.AccuracyError(), Output(train), y=y)
  np.testing.assert_array_equal(found, [0, 0, 1, 0, 1, 1])
  with pytest.raises(ValueError, match=r'found labels float32\[6, 1\]'):
    score(losses.AccuracyError(), Output(train), y=np.ones((B, 1)))


def test_xent_of_a_table_is_that_of_its_rows():
  train, y = RNG.normal(size=(B, C)), np.array([0, 3, 2, 1, -1, C])
  table = RNG.dirichlet(np.ones(C), size=C)
  found = score(losses.Xent(labels=table), Output(jnp.asarray(train)), y=y)
  log_p = np.log(scipy.special.softmax(train, -1))
  expected = -(table[y[:4]] * log_p[:4]).sum(-1)
  np.testing.assert_allclose(found[:4], expected, rtol=1e-5)
  assert np.isnan(found[4:]).all()
  assert hash(losses.Xent(labels=table)) == hash(losses.Xent(labels=table))


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'labels': [[1.0, 0.0]]}, r'labels has 1 rows of \[2\]'),
        ({'labels': np.eye(2), 'label_smoothing': 0.1}, 'label_smoothing is'),
    ],
)
def test_tables_that_are_none_are_refused(fields, says):
  with pytest.raises(ValueError, match=says):
    losses.Xent(**fields)


def test_a_table_of_other_classes_is_refused():
  with pytest.raises(ValueError, match='of 2 classes, but there are 4'):
    score(losses.Xent(labels=np.eye(2)))


def test_two_hot_xent_spreads_a_number_over_its_neighbours():
  atoms = TwoHot(0.0, 3.0, 4)
  y = np.float32([[0.0], [0.25], [3.0], [2.9], [7.0], [-1.0]])
  q = np.array([
      [1, 0, 0, 0], [0.75, 0.25, 0, 0], [0, 0, 0, 1], [0, 0, 0.1, 0.9],
      [0, 0, 0, 1], [1, 0, 0, 0],
  ])  # fmt: skip
  train = RNG.normal(size=(B, C))
  log_p = np.log(scipy.special.softmax(train, -1))
  out = Output(jnp.asarray(train))
  found = score(losses.TwoHotXent(), out, None, atoms, y=y)
  np.testing.assert_allclose(found, -(q * log_p).sum(-1), rtol=1e-5)
  # The weights are of the two atoms beside it where distances are unequal too.
  uneven = TwoHot(atoms=(0.0, 1.0, 2.8, 3.0))
  q = np.array([
      [1, 0, 0, 0], [0.75, 0.25, 0, 0], [0, 0, 0, 1], [0, 0, 0.5, 0.5],
      [0, 0, 0, 1], [1, 0, 0, 0],
  ])  # fmt: skip
  unequal = score(losses.TwoHotXent(), out, None, uneven, y=y)
  np.testing.assert_allclose(unequal, -(q * log_p).sum(-1), rtol=1e-5)
  # A shift of the atoms is one of the number, and is not trained.
  shifted = TwoHot(0.0, 3.0, 4, shift=True)
  moved = Output(jnp.concatenate([train, jnp.full((B, 1), 0.5)], -1))

  def total(out):
    return score(losses.TwoHotXent(), out, None, shifted, y=y + 0.5).sum()

  value, grads = jax.value_and_grad(total)(moved)
  np.testing.assert_allclose(value, found.sum(), rtol=1e-5)
  np.testing.assert_array_equal(grads.train[:, -1], 0)


def test_two_hot_xent_needs_its_likelihood():
  with pytest.raises(ValueError, match=r'is Categorical\(.*two_hot'):
    score(losses.TwoHotXent(), likelihood=Categorical(C))


PARAMS = {'head': {'kernel': np.full(3, 2.0), 'bias': np.ones(1)},
          'base': {'kernel': np.full(2, 3.0), 'bias': np.ones(4)}}  # fmt: skip


@pytest.mark.parametrize(
    ('scale', 'expected'),
    [
        (0.5, 0.5 * (12 + 18)),
        ({'head/': 1.0, 'kernel$': 0.1}, 13 + 0.1 * 18),
        ({'bias': 0.0, '': 2.0}, 2 * (12 + 18)),
        (lambda path, p: len(p) if 'bias' in path else 0.0, 1 + 16),
    ],
    ids=['number', 'first that is found', 'left out', 'function'],
)
def test_l2_penalty_scales_each_parameter(scale, expected):
  found = score(losses.L2Penalty(scale), params=PARAMS)
  np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_l2_penalty_by_path_is_a_value():
  one, other = (losses.L2Penalty({'a': 1.0}) for _ in range(2))
  assert one == other and hash(one) == hash(other)
  with pytest.raises(ValueError, match=r'scale is -1\.0'):
    losses.L2Penalty({'a': -1.0})


def test_gaussian_inputs_have_the_form_of_the_data():
  shapes = {'a': ((4000, 3), np.float32), 'b': ((4000, 2), np.float16)}
  tree = {name: np.zeros(*form) for name, form in shapes.items()}
  ones = np.ones(4000)
  batch = Batch(tree, ones, 2 * ones, np.arange(4000), 0 * ones)
  found = losses.GaussianInputs(3.0)(batch, jax.random.key(0))
  for name, leaf in found.x.items():
    assert leaf.shape == tree[name].shape
    np.testing.assert_allclose(leaf.std(), 3, rtol=0.05)
    np.testing.assert_allclose(leaf.mean(), 0, atol=0.1)
  assert abs(np.corrcoef(found.x['a'][:, 0], found.x['b'][:, 0])[0, 1]) < 0.05
  # A row of padding is generated like any other, and counts.
  assert found.mask.all() and (found.weight == 1).all()
  with pytest.raises(ValueError, match=r'found inputs int'):
    losses.GaussianInputs()(batch.replace(x=np.arange(3)), jax.random.key(0))


def pair(mean, drawn):
  both = {'mean': mean, 'drawn': drawn}
  return {name: Output(jnp.asarray(part)) for name, part in both.items()}


@pytest.mark.parametrize('temperature', [1.0, 4.0])
def test_distillation_of_classes_is_a_divergence_that_is_finite(temperature):
  """enn takes logarithms of probabilities, some of which underflow here."""
  mean, drawn = RNG.normal(size=(1, B, C)), RNG.normal(size=(5, B, C))
  drawn[:, 0, 0] = -500.0
  mean[0, 1, 2] = -500.0
  likelihood = Categorical(C, temperature)
  found = score(losses.DistillMean(), pair(mean, drawn), None, likelihood)
  mean, drawn = mean / temperature, drawn / temperature
  log_p = mean[0] - scipy.special.logsumexp(mean[0], -1, keepdims=True)
  target = scipy.special.softmax(drawn, -1).mean(0)
  ratio = scipy.special.xlogy(target, target) - target * log_p
  np.testing.assert_allclose(found, ratio.sum(-1), rtol=1e-4)


def test_distillation_of_a_regression_is_a_squared_error():
  mean, drawn = RNG.normal(size=(1, B, C)), RNG.normal(size=(5, B, C))
  found = score(losses.DistillMean(), pair(mean, drawn), None, Gaussian(C))
  expected = np.square(mean[0] - drawn.mean(0)).mean(-1)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_distillation_of_a_variance_is_least_where_it_is_equal():
  drawn = RNG.normal(size=(50, B, 2))  # a mean and a log-variance each
  best = np.log(drawn[..., :1].var(0))
  mean = np.concatenate([np.zeros((B, 1)), best], -1)[None]
  likelihood = Gaussian(1, scale=None)

  def value(mean, drawn):
    outputs = pair(mean, drawn)
    return score(losses.DistillVariance(), outputs, None, likelihood).sum()

  found, (of_mean, of_drawn) = jax.value_and_grad(value, (0, 1))(mean, drawn)
  np.testing.assert_allclose(found, 0, atol=1e-5)
  np.testing.assert_allclose(of_mean, 0, atol=1e-5)
  np.testing.assert_array_equal(of_drawn, 0)  # the target
  assert value(mean + 0.5, drawn) > 0.1


def test_distillation_of_the_variance_of_classes_is_of_each_by_itself():
  """enn takes one variance of all probabilities: no axis is named."""
  rng = np.random.default_rng(0)
  # Indices agree on the first example, and hardly on the last.
  drawn = rng.normal(size=(7, B, C)) * np.linspace(0.1, 4, B)[:, None]
  log_var = rng.normal(-3, 1, size=(1, B, C))
  outputs = pair(np.zeros((1, B, C)), drawn)
  outputs['mean'] = outputs['mean'].replace(extra={'log_var': log_var})

  def expected(variance):
    ratio = variance / np.exp(log_var[0])
    return (0.5 * (log_var[0] - np.log(variance) + ratio - 1)).mean(-1)

  probs = scipy.special.softmax(drawn / 2, -1)
  of_each = np.square(probs - probs.mean(0)).mean(0)
  assert of_each[-1].min() > 20 * of_each[0].max()
  found = score(losses.DistillVariance(), outputs, None, Categorical(C, 2.0))
  np.testing.assert_allclose(found, expected(of_each), rtol=1e-4)
  assert found[0] > expected(probs.var())[0] + 1  # enn's


def test_distillation_of_a_variance_that_is_not_learned_is_refused():
  outputs = pair(np.zeros((1, B, C)), np.zeros((3, B, C)))
  message = r'no log-variance.*\["log_var"\].*index_mlp.*scale=None'
  with pytest.raises(ValueError, match=message):
    score(losses.DistillVariance(), outputs, None, Gaussian(C))
