"""Bootstrap: random example weights, one set for every index."""

import dataclasses

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Index, Indexer
from flax_enn.losses.data_noise import Noise, fold_in, normal

_DRAWS = {
    'exponential': lambda key: jax.random.exponential(key, dtype=jnp.float32),
    'bernoulli': lambda key: jnp.where(
        jax.random.bernoulli(key, jnp.float32(0.5)), jnp.float32(2), 0
    ),
    'poisson': lambda key: jax.random.poisson(key, 1.0).astype(jnp.float32),
    'uniform': lambda key: 2 * jax.random.uniform(key, dtype=jnp.float32),
}
_LINEAR = ('exponential', 'bernoulli')

# Separates the second projection of an example from its first; enn's number.
_SECOND = 666


@dataclasses.dataclass(frozen=True)
class Bootstrap(Noise):
  """Scales `batch.weight` by random weights of mean 1.

  For an ensemble member or a PRNG index, the weights of examples are
  independent draws. For a Gaussian index they are functions of random
  projections b.u and c.u of it, so that near indices see near weights:
  1 + sign(b.u) for `bernoulli`; ((b.u)^2 + (c.u)^2) / 2, which is half a
  chi-squared variable of two degrees and so exponential, for `exponential`.

  >>> Bootstrap('poisson')(batch, index, EnsembleIndexer(10)).weight
  Array([1., 0., 0., 0.], dtype=float32)

  Attributes:
    distribution: `exponential` (the Bayesian bootstrap), `bernoulli` (double
      or nothing), `poisson` (resampling), `uniform` (0 to 2), or `none`, which
      leaves the weights alone whatever the index.
  """

  distribution: str = 'exponential'

  def __post_init__(self):
    known = [*_DRAWS, 'none']
    if self.distribution not in known:
      raise ValueError(
          f'distribution is {self.distribution!r}; known: {", ".join(known)}'
      )

  def __call__(self, batch: Batch, index: Index, indexer: Indexer) -> Batch:
    """Scales `batch.weight`.

    Raises:
      ValueError: the index is Gaussian and the distribution is not defined for
        it, or the index is none of those of `Noise`.
    """
    if self.distribution == 'none':
      return batch
    u = self.standardized(index, indexer)
    if u is None:
      keys = self.pair_keys(batch, index, indexer)
      weights = jax.vmap(_DRAWS[self.distribution])(keys)
    else:
      weights = self._linear_weights(batch, u)
    return batch.replace(weight=batch.weight * weights)

  def _linear_weights(self, batch: Batch, u: jax.Array) -> jax.Array:
    """`[B]` weights that are functions of projections of u."""
    if self.distribution not in _LINEAR:
      raise ValueError(
          f'distribution is {self.distribution!r}, but the index is Gaussian,'
          f' which has {" and ".join(_LINEAR)} only'
      )
    keys = self.example_keys(batch)
    bu = normal(keys, u.shape) @ u
    if self.distribution == 'bernoulli':
      return 1 + jnp.sign(bu)
    cu = normal(fold_in(keys, _SECOND), u.shape) @ u
    return (jnp.square(bu) + jnp.square(cu)) / 2
