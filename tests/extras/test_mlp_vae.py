"""The autoencoder learns what there is to learn of its data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.extras import MLPVAE, train_mlp_vae
from tests import slow


@pytest.mark.parametrize('bernoulli', [True, slow(False)])
def test_an_autoencoder_learns_its_data(bernoulli):
  """Points on a line, of which one number is enough to name each."""
  t = np.linspace(0, 1, 256)[:, None]
  x = np.concatenate([t, 1 - t, t], axis=1)
  if bernoulli:
    x = np.round(x)
  network = MLPVAE(3, hiddens=(16,), latent_dim=1, bernoulli=bernoulli)
  variables = train_mlp_vae(
      x, network, num_steps=400, batch_size=64, learning_rate=1e-2
  )
  mean, log_var = network.apply(variables, x, method='encode')
  assert mean.shape == log_var.shape == (256, 1)
  found, _ = network.apply(variables, mean, method='decode')
  found = jax.nn.sigmoid(found) if bernoulli else found
  error = np.square(found - x).mean() / np.square(x - x.mean(0)).mean()
  assert error < 0.1
  # The index is the noise of the code, 0 at its mean.
  out = network.apply(variables, x, jnp.zeros(1))
  expected = network.apply(variables, mean, method='decode')[0]
  np.testing.assert_allclose(out.preds, expected, rtol=1e-5)
