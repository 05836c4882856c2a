"""The divergence of a variational autoencoder's code from its prior."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.losses.required import extras


@dataclasses.dataclass(frozen=True)
class LatentKL:
  """KL(N(m, diag exp(s)) || N(0, I)) = -sum_d (1 + s - m^2 - exp(s)) / 2.

  Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114),
  appendix B. With `Reconstruction` it is the loss of a variational autoencoder:
  one objective each, which share their forward pass. (The divergence of
  *weights* from a prior: `DiagonalKL` and its neighbours.)

  >>> ones = {k: jnp.ones((4, 2)) for k in ('latent_mean', 'latent_log_var')}
  >>> LatentKL()(Output(jnp.zeros((4, 3)), extra=ones), batch).round(2)
  Array([1.72, 1.72, 1.72, 1.72], dtype=float32)
  """

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` divergences, of `latent_mean` and `latent_log_var` in `extra`."""
    del batch
    names = ('latent_mean', 'latent_log_var')
    found = extras(outputs, names, type(self).__name__)
    mean, log_var = map(promote_to_float32, found)
    return -0.5 * (1 + log_var - jnp.square(mean) - jnp.exp(log_var)).sum(-1)
