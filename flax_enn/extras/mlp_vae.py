"""A variational autoencoder of MLPs, as an epistemic network of its code."""

from collections.abc import Sequence
import functools
from typing import cast

from flax import linen as nn
import jax
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, EpistemicNetwork, Index, Output, Variables
from flax_enn.field_checks import check_positive
from flax_enn.indexers import GaussianIndexer
from flax_enn.likelihoods import Gaussian
from flax_enn.losses import LatentKL, Objective, Reconstruction
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step


class MLPVAE(nn.Module):
  """x -> N(m(x), exp(s(x))), its draw at an index -> mean (and spread) of x.

  Kingma and Welling, "Auto-Encoding Variational Bayes" (arXiv:1312.6114). The
  index z ~ N(0, I) is the noise of the code m + exp(s / 2) z, the same for the
  whole batch, as in enn's `make_vae_enn`. Train it with the losses
  `Reconstruction` and `LatentKL`.

  Attributes:
    inputs: number of entries of one x, which is flattened.
    hiddens: widths of the encoder's hidden layers; the decoder has them in the
      other order.
    latent_dim: D, numbers in a code.
    activation: name of the hidden activation in `flax.linen`.
    bernoulli: whether x is in [0, 1] and the decoder emits logits; else it
      emits means and log-variances.
  """

  inputs: int
  hiddens: Sequence[int] = (256, 64)
  latent_dim: int = 2
  activation: str = 'tanh'
  bernoulli: bool = True

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'inputs', 'hiddens', 'latent_dim')

  @property
  def indexer(self) -> GaussianIndexer:
    return GaussianIndexer(self.latent_dim)

  def setup(self):
    self.encoder = MLP(self.hiddens, 2 * self.latent_dim, self.activation)
    outputs = self.inputs * (1 if self.bernoulli else 2)
    self.decoder = MLP(self.hiddens[::-1], outputs, self.activation)

  def encode(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance `[B, D]` of the codes of `[B, ...]`."""
    mean, log_var = jnp.split(self.encoder(x)[0], 2, axis=-1)
    return mean, log_var

  def decode(self, codes: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean (or logits) and log-variance `[B, inputs]` at codes `[B, D]`."""
    out = self.decoder(codes)[0]
    if self.bernoulli:
      return out, jnp.zeros_like(out)
    mean, log_var = jnp.split(out, 2, axis=-1)
    return mean, log_var

  def __call__(
      self, x: jax.Array, index: Index, *, train: bool = False
  ) -> Output:
    """Computes `[B, inputs]`; all that the losses need is in `extra`."""
    del train
    mean, log_var = self.encode(x)
    out_mean, out_log_var = self.decode(mean + jnp.exp(log_var / 2) * index)
    extra = {
        'latent_mean': mean,
        'latent_log_var': log_var,
        'out_mean': out_mean,
        'out_log_var': out_log_var,
    }
    return Output(out_mean, extra=extra)


def train_mlp_vae(
    x: jax.Array,
    network: MLPVAE,
    *,
    num_steps: int = 10_000,
    batch_size: int = 1_000,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> Variables:
  """Trains an autoencoder with Adam on random batches of the rows of x.

  Returns:
    Its variables: `network.apply(variables, x, method='encode')`.
  """
  x = jnp.asarray(x, jnp.float32).reshape(len(x), -1)
  kind = 'bernoulli' if network.bernoulli else 'gaussian'
  tx, enn = optax.adam(learning_rate), cast(EpistemicNetwork, network)
  step = functools.partial(
      train_step,
      network=enn,
      objectives={
          'reconstruction': Objective(Reconstruction(kind)),
          'latent': Objective(LatentKL()),
      },
      tx=tx,
      likelihood=Gaussian(network.inputs),
      num_examples=len(x),
      num_indices=1,
  )
  size = min(batch_size, len(x))

  def take(state, key):
    rows = jax.random.choice(key, len(x), (size,), replace=True)
    ones = jnp.ones(size)
    return step(state, Batch(x[rows], None, ones, rows, ones))[0], None

  @jax.jit
  def run(seed):
    state = nn.unbox(init_state(enn, tx, seed, x[:1]))
    keys = jax.random.split(jax.random.key(seed), num_steps)
    return jax.lax.scan(take, state, keys)[0]

  return run(seed).variables
