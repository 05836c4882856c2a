"""A two-hot likelihood whose atoms the network shifts."""

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn import build, kinds
from flax_enn.likelihoods import TwoHot

PLAIN = TwoHot(-1.0, 2.0, 6)
SHIFTED = TwoHot(-1.0, 2.0, 6, shift=True)
LOGITS = jax.random.normal(jax.random.key(0), (5, 6))
SHIFT = jnp.array([0.0, 0.3, -0.7, 5.0, -20.0])
OUTPUTS = jnp.concatenate([LOGITS, SHIFT[:, None]], axis=-1)


def test_the_network_emits_one_more_output():
  assert (PLAIN.outputs, SHIFTED.outputs) == (6, 7)


def test_a_shift_moves_the_density():
  y = jnp.linspace(-0.9, 1.9, 5)[:, None]
  np.testing.assert_allclose(
      SHIFTED.log_prob(OUTPUTS, y + SHIFT[:, None]),
      PLAIN.log_prob(LOGITS, y),
      rtol=1e-5,
  )


def test_a_shift_moves_the_mean_alone():
  mean, variance = SHIFTED.moments(OUTPUTS)
  plain, same = PLAIN.moments(LOGITS)
  np.testing.assert_allclose(mean, plain + SHIFT[:, None], rtol=1e-5)
  np.testing.assert_allclose(variance, same)


def test_a_gaussian_process_shifts_each_member():
  """enn's `CatMLPEnsembleGpPrior`, as a config."""
  config = {
      'name': 'ensemble',
      'member': {'name': 'mlp', 'hiddens': (5,)},
      'size': 3,
      'priors': {
          'gp': {
              'name': 'scaled_prior',
              'scale': (0,) * PLAIN.atoms + (0.7,),
              'net': {
                  'name': 'ensemble_prior',
                  'member': {'name': 'gp_prior', 'gamma': (0.5, 2.0)},
              },
          }
      },
  }
  outputs = SHIFTED.outputs
  network = build.build(config, kinds.NETWORK, 'config.network', outputs)
  x, index = jax.random.normal(jax.random.key(1), (5, 3)), jnp.eye(3)[1]
  keys = {'params': jax.random.key(2), 'frozen': jax.random.key(3)}
  out, _ = jax.jit(network.init_with_output)(keys, x, index)
  assert not np.any(out.prior[:, :-1]) and np.all(out.prior[:, -1])
  means = [SHIFTED.moments(part)[0] for part in (out.preds, out.train)]
  shift = out.prior[:, -1:]
  np.testing.assert_allclose(means[0] - means[1], shift, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_finite_at_an_atom():
  """It is that of the density beside the atom, above it."""
  likelihood = TwoHot(0.0, 2.0, 3, shift=True)
  logits = jnp.array([0.3, -0.2, 0.5])

  def density(shift, y):
    outputs = jnp.append(logits, shift)[None]
    return likelihood.log_prob(outputs, jnp.array([[y]]))[0]

  for y in (0.0, 1.0, 1.5):
    found = jax.grad(density)(0.0, y)
    slope = (density(0.0, y) - density(-1e-3, y)) / 1e-3
    assert np.isfinite(found)
    np.testing.assert_allclose(found, slope, rtol=0.02)
  assert jax.grad(density)(5.0, 1.0) == 0  # beyond all atoms
