"""Losses against closed forms and slow references in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import losses
from flax_enn.core import Batch, Output
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot

B, C = 6, 4


def make_batch(y) -> Batch:
  n = len(y)
  return Batch(np.zeros((n, 1)), y, np.ones(n), np.arange(n), np.ones(n))


def outputs(seed=0, classes=C, dtype=jnp.float32) -> Output:
  train, prior = jax.random.normal(jax.random.key(seed), (2, B, classes))
  return Output(train.astype(dtype), prior.astype(dtype))


def labels(dtype=np.int32):
  return np.array([0, 3, 2, 1, 1, 0], dtype)


def score(loss, output, y, likelihood=None):
  """The loss, called as the step calls it."""
  return loss(
      output,
      make_batch(y),
      index=jnp.zeros(2),
      variables={},
      context=losses.Context(jnp.int32(0), 100, likelihood),
  )


@pytest.mark.parametrize('smoothing', [0.0, 0.1, 0.5])
def test_xent_is_minus_log_softmax_of_the_label(smoothing):
  out, y = outputs(), labels()
  logits = np.asarray(out.train + out.prior, np.float64)
  expected = []
  for row, label in zip(logits, y):
    log_p = row - np.log(np.exp(row).sum())
    q = np.full(C, smoothing / C)
    q[label] += 1 - smoothing
    expected.append(-(q * log_p).sum())
  got = score(losses.Xent(smoothing), out, y)
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_xent_of_equal_logits_is_log_c():
  got = score(losses.Xent(0.3), Output(jnp.full((B, C), 7.0)), labels())
  np.testing.assert_allclose(got, np.log(C), rtol=1e-6)


def test_xent_gradient_is_softmax_minus_label():
  out, y = outputs(), labels()

  def total(train):
    return score(losses.Xent(), out.replace(train=train), y).sum()

  expected = jax.nn.softmax(out.preds) - np.eye(C)[y]
  np.testing.assert_allclose(jax.grad(total)(out.train), expected, atol=1e-6)


def test_xent_is_finite_where_a_probability_underflows():
  out = Output(jnp.array([[0.0, 1e4]]))
  got = score(losses.Xent(0.1), out, np.array([0]))
  np.testing.assert_allclose(got, [0.95e4], rtol=1e-6)


@pytest.mark.parametrize('label', [-1, C])
def test_xent_of_a_label_out_of_range_is_nan_and_no_other_class(label):
  y = labels()
  y[2] = label
  got = score(losses.Xent(), outputs(), y)
  np.testing.assert_array_equal(np.isnan(got), np.arange(B) == 2)


@pytest.mark.parametrize('loss', [losses.Xent(0.1), losses.L2()])
def test_losses_of_bfloat16_outputs_are_float32(loss):
  y = labels() if isinstance(loss, losses.Xent) else np.ones((B, C), 'f4')
  out = outputs(dtype=jnp.bfloat16)
  wide = Output(out.preds.astype(jnp.float32))
  got = score(loss, out, y)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, score(loss, wide, y), rtol=1e-6)


def test_losses_keep_float64():
  with jax.enable_x64():
    out = Output(jnp.ones((B, C), jnp.float64))
    assert score(losses.Xent(), out, labels()).dtype == jnp.float64
    assert score(losses.L2(), out, np.ones((B, C))).dtype == jnp.float64


@pytest.mark.parametrize('classes', [1, 3])
def test_l2_is_the_mean_square_over_outputs(classes):
  out = outputs(classes=classes)
  y = np.random.default_rng(0).normal(size=(B, classes)).astype('f4')
  preds = np.asarray(out.train + out.prior)
  expected = [
      sum((preds[b, c] - y[b, c]) ** 2 for c in range(classes)) / classes
      for b in range(B)
  ]
  np.testing.assert_allclose(score(losses.L2(), out, y), expected, rtol=1e-5)


@pytest.mark.parametrize('loss', [losses.Xent(), losses.L2()])
def test_no_gradient_reaches_the_prior(loss):
  y = labels() if isinstance(loss, losses.Xent) else np.ones((B, C), 'f4')
  grads = jax.grad(lambda out: score(loss, out, y).sum())(outputs())
  assert np.abs(grads.train).min() > 0
  np.testing.assert_array_equal(grads.prior, 0)


@pytest.mark.parametrize(
    ('loss', 'y'),
    [
        (losses.Xent(), labels(np.float32)),
        (losses.Xent(), labels()[:, None]),
        (losses.Xent(), labels()[:-1]),
        (losses.L2(), labels()),
        (losses.L2(), np.ones(B, 'f4')),
        (losses.L2(), np.ones((B, 1), 'f4')),
    ],
)
def test_labels_of_the_wrong_kind_are_refused_before_compilation(loss, y):
  found = rf'{type(loss).__name__} found .*{y.dtype}\[{y.shape[0]}'
  with pytest.raises(ValueError, match=found):
    jax.eval_shape(lambda out: score(loss, out, y), outputs())


def parameters():
  return {
      'layer': {'kernel': jnp.full((2, 3), 2.0), 'bias': jnp.full(3, 5.0)},
      'head': {'h': {'kernel': jnp.full((4, 1), -1.0)}, 'scale': jnp.ones(7)},
  }


@pytest.mark.parametrize(
    ('biases', 'expected'), [(False, 6 * 4 + 4), (True, 6 * 4 + 75 + 4 + 7)]
)
def test_l2_penalty_is_a_sum_of_squares_of_params_alone(biases, expected):
  variables = {'params': parameters(), 'frozen': parameters()}
  penalty = losses.L2Penalty(0.5, biases=biases)
  got = penalty(outputs(), make_batch(labels()), variables=variables)
  assert got.shape == ()
  np.testing.assert_allclose(got, 0.5 * expected, rtol=1e-6)


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda: losses.Xent(1.0), 'label_smoothing is 1.0'),
        (lambda: losses.Xent(-0.1), 'label_smoothing is -0.1'),
        (lambda: losses.L2Penalty(-1.0), 'scale is -1.0'),
        (lambda: losses.TargetNoise(-1.0), '`std` of TargetNoise is -1.0'),
        (lambda: losses.TargetNoise(np.nan), '`std` of TargetNoise is nan'),
        (lambda: losses.GaussianInputs(np.inf), '`scale` of .* is inf'),
        (lambda: losses.MixtureKL(share=np.nan), '`share` of .* is nan'),
        (lambda: losses.Objective(abs, np.nan), '`weight` of .* is nan'),
        (lambda: losses.Xent(labels=[[np.nan]]), '`labels` of Xent is .*nan'),
        (lambda: losses.Bootstrap('gamma'), "distribution is 'gamma'; known: "),
    ],
)
def test_bad_numbers_name_their_field(make, says):
  """`build` puts the path of its section in front."""
  with pytest.raises(ValueError, match=says):
    make()


def test_nll_of_classes_is_xent():
  out, y = outputs(), labels()
  found = score(losses.Nll(), out, y, Categorical(C))
  np.testing.assert_allclose(found, score(losses.Xent(), out, y), rtol=1e-6)
  # The prior counts, and gets no gradient.
  grads = jax.grad(
      lambda out: score(losses.Nll(), out, y, Categorical(C)).sum()
  )(out)
  np.testing.assert_allclose(
      grads.train, jax.nn.softmax(out.preds) - np.eye(C)[y], atol=1e-6
  )
  np.testing.assert_array_equal(grads.prior, 0)


@pytest.mark.parametrize('scale', [1.0, 0.5])
def test_nll_of_a_fixed_variance_is_a_scaled_l2(scale):
  out = outputs()
  y = np.random.default_rng(0).normal(size=(B, C)).astype('f4')
  found = score(losses.Nll(), out, y, Gaussian(C, scale))
  squares = C * score(losses.L2(), out, y) / scale**2
  constant = C * np.log(2 * np.pi * scale**2)
  np.testing.assert_allclose(found, (squares + constant) / 2, rtol=1e-5)


def test_nll_trains_a_variance_to_that_of_the_residuals():
  """At its least the log-variance is that of what the mean leaves over."""
  y = np.random.default_rng(0).normal(2.0, 3.0, size=(B, 1)).astype('f4')
  best = Output(jnp.tile(jnp.array([y.mean(), 2 * np.log(y.std())]), (B, 1)))
  likelihood = Gaussian(1, scale=None)
  value, grads = jax.value_and_grad(
      lambda out: score(losses.Nll(), out, y, likelihood).mean()
  )(best)
  entropy = 0.5 * np.log(2 * np.pi * np.e * y.std() ** 2)
  np.testing.assert_allclose(value, entropy, rtol=1e-5)
  np.testing.assert_allclose(grads.train.sum(0), [0, 0], atol=1e-6)


def test_nll_of_two_hot_outputs_is_minus_the_log_of_the_density():
  """Of a mixture of triangles; its C is not that of y."""
  out = outputs(classes=5)
  y = np.float32([[0.0], [2.0], [0.25], [1.0], [1.9], [0.7]])
  found = score(losses.Nll(), out, y, TwoHot(0.0, 2.0, 5))
  probs = np.asarray(jax.nn.softmax(out.preds))
  for b in range(B):
    # At atoms half a unit apart; those at the ends are half a triangle.
    hats = np.maximum(0, 1 - np.abs(y[b] - np.linspace(0, 2, 5)) / 0.5) / 0.5
    hats[[0, -1]] *= 2
    np.testing.assert_allclose(found[b], -np.log(probs[b] @ hats), rtol=1e-4)
