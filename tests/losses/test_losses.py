"""Losses against closed forms and slow references in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import losses
from flax_enn.core import Batch, Output

B, C = 6, 4


def make_batch(y) -> Batch:
  n = len(y)
  return Batch(np.zeros((n, 1)), y, np.ones(n), np.arange(n), np.ones(n))


def outputs(seed=0, classes=C, dtype=jnp.float32) -> Output:
  train, prior = jax.random.normal(jax.random.key(seed), (2, B, classes))
  return Output(train.astype(dtype), prior.astype(dtype))


def labels(dtype=np.int32):
  return np.array([0, 3, 2, 1, 1, 0], dtype)


def score(loss, output, y):
  return loss(output, make_batch(y), None, {})


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
  with pytest.raises(ValueError, match=r'config\.objectives\.\*\.loss'):
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
  got = penalty(outputs(), make_batch(labels()), None, variables)
  assert got.shape == ()
  np.testing.assert_allclose(got, 0.5 * expected, rtol=1e-6)


@pytest.mark.parametrize(
    ('make', 'field'),
    [
        (lambda: losses.Xent(1.0), 'label_smoothing'),
        (lambda: losses.Xent(-0.1), 'label_smoothing'),
        (lambda: losses.L2Penalty(-1.0), 'scale'),
        (lambda: losses.TargetNoise(-1.0), 'std'),
        (lambda: losses.Bootstrap('gamma'), 'distribution'),
    ],
)
def test_bad_numbers_name_their_config_field(make, field):
  with pytest.raises(ValueError, match=rf'config\.objectives\.\*.*\.{field}'):
    make()
