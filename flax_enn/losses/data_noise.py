"""Noise that gives every epistemic index its own view of the data.

To train the function at each index on its own perturbation of the data, the
same whenever example and index come back, the perturbation depends on
`(batch.id, index)` and on nothing else: not on the position in the batch, the
step, or the host.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Index, Indexer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
  """What noise on `(id, index)` is drawn from; its subclasses perturb a batch.

  A one-hot index and a Gaussian one are both float vectors and mean different
  things, so noise is told the indexer with the index.

  Attributes:
    seed: number that, with id and index, determines the noise.
  """

  seed: int = 0

  def __call__(self, batch: Batch, index: Index, indexer: Indexer) -> Batch:
    """Perturbs a batch for the function at one index of `indexer`.

    Raises:
      ValueError: the noise is not defined for such indices or targets.
    """
    raise NotImplementedError

  def example_keys(self, batch: Batch) -> jax.Array:
    """`[B]` keys, one per example."""
    # enn's rule (id + seed is the seed), so that its numbers are reproduced.
    key = functools.partial(jax.random.key, impl='threefry2x32')
    return jax.vmap(key)(self._ids(batch) + self.seed)

  def pair_keys(
      self, batch: Batch, index: Index, indexer: Indexer
  ) -> jax.Array:
    """`[B]` keys, one per pair of example and ensemble member or PRNG index.

    A member is a one-hot index `[K]`, or its number `[]`.
    """
    if jnp.issubdtype(index.dtype, jax.dtypes.prng_key):
      key = jax.random.fold_in(index, self.seed)
      return jax.vmap(jax.random.fold_in, (None, 0))(key, self._ids(batch))
    if indexer.size is None:
      raise ValueError(
          f'{type(self).__name__} is defined for one-hot, Gaussian and PRNG key'
          f' indices, but the index is that of {indexer}; leave this noise out'
          ' or choose another network'
      )
    if jnp.issubdtype(index.dtype, jnp.integer) and not index.shape:
      return fold_in(self.example_keys(batch), index)
    if index.shape != (indexer.size,):
      raise ValueError(
          f'{type(self).__name__} found an index {index.dtype}'
          f'{list(index.shape)} of {indexer}, whose size is {indexer.size}; it'
          f' is one-hot [{indexer.size}], or the integer number of a member []'
      )
    return fold_in(self.example_keys(batch), jnp.argmax(index))

  def standardized(self, index: Index, indexer: Indexer) -> jax.Array | None:
    """A Gaussian index `[D]` scaled to E|u|^2 = 1; None for other indices.

    Raises:
      ValueError: the indexer gives another shape than that.
    """
    u = indexer.standardize(index)
    if u is not None and (jnp.ndim(u) != 1 or not jnp.size(u)):
      raise ValueError(
          f'{type(self).__name__} projects a vector [D], but `standardize` of'
          f' {indexer} gives {list(jnp.shape(u))}; return the numbers of a'
          ' Gaussian index as a vector, or None where it is not Gaussian'
      )
    return u

  def _ids(self, batch: Batch) -> jax.Array:
    """`[B]` integer numbers of the examples, checked."""
    ids = jnp.asarray(batch.id)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1:
      raise ValueError(
          f'{type(self).__name__} found batch.id {ids.dtype}{list(ids.shape)};'
          ' it needs one integer per example, [B]'
      )
    return ids


def fold_in(keys: jax.Array, number: jax.Array | int) -> jax.Array:
  """Folds one number into each of `[B]` keys."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`[B, *shape]` standard normal draws, one from each of `[B]` keys."""
  # Of one dtype, or the draws would change with jax_enable_x64.
  return jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys)
