"""Noise that gives every epistemic index its own view of the data.

To train the function at each index on its own perturbation of the data, the
same whenever example and index come back, the perturbation hangs on
`(batch.id, index)` and on nothing else: not on the position in the batch, the
step, or the host.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from flax_enn import indexers
from flax_enn.core import Batch, Index, Indexer

_GAUSSIAN = (
    indexers.GaussianIndexer,
    indexers.ScaledGaussianIndexer,
    indexers.GaussianWithUnitIndexer,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noise:
  """What noise on `(id, index)` is drawn from; its subclasses perturb a batch.

  A one-hot index and a Gaussian one are both float vectors and mean different
  things, so noise must know the indexer. A config does not repeat it: training
  fills it in from the network, by `Objective.bind`.

  Attributes:
    seed: number that, with id and index, determines the noise.
    indexer: the law the index is drawn from; the network's where None.
  """

  seed: int = 0
  indexer: Indexer | None = None

  def __post_init__(self):
    known = (indexers.EnsembleIndexer, indexers.PrngIndexer, *_GAUSSIAN)
    if self.indexer is not None and not isinstance(self.indexer, known):
      raise ValueError(
          f'{type(self).__name__} is not defined for indices of'
          f' {self.indexer}, only for {[k.__name__ for k in known]}; take it'
          ' out of config.objectives.*.noise or choose another config.network'
      )

  def bind(self, indexer: Indexer) -> 'Noise':
    """The noise for indices of `indexer`, unless it was given one before."""
    if self.indexer is not None:
      return self
    return dataclasses.replace(self, indexer=indexer)

  def __call__(self, batch: Batch, index: Index) -> Batch:
    """Perturbs a batch for the function at one index."""
    raise NotImplementedError

  @property
  def linear(self) -> bool:
    """Whether noise is made from projections of the index."""
    return isinstance(self.indexer, _GAUSSIAN)

  def ids(self, batch: Batch) -> jax.Array:
    """`[B]` integer numbers of the examples, checked."""
    ids = jnp.asarray(batch.id)
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim != 1:
      raise ValueError(
          f'{type(self).__name__} found batch.id {ids.dtype}{list(ids.shape)};'
          ' it needs one integer per example, [B]'
      )
    return ids

  def example_keys(self, batch: Batch) -> jax.Array:
    """`[B]` keys, one per example."""
    # enn's rule (id + seed is the seed), so that its numbers are reproduced.
    key = functools.partial(jax.random.key, impl='threefry2x32')
    return jax.vmap(key)(self.ids(batch) + self.seed)

  def draw_keys(self, batch: Batch, index: Index) -> jax.Array:
    """`[B]` keys, one per pair of example and ensemble member or PRNG index."""
    if self.indexer is None:
      raise ValueError(
          f'{type(self).__name__} does not know which law its index is drawn'
          ' from; use objective.bind(network.indexer), or give it `indexer`'
      )
    if isinstance(self.indexer, indexers.PrngIndexer):
      key = jax.random.fold_in(index, self.seed)
      return jax.vmap(jax.random.fold_in, (None, 0))(key, self.ids(batch))
    return fold_in(self.example_keys(batch), jnp.argmax(index))

  def standard(self, index: Index) -> jax.Array:
    """A Gaussian index scaled to E|u|^2 = 1, without its constant entry.

    So b . u has variance 1 for b ~ N(0, I), on the average over b.

    Args:
      index: `[D]`.

    Returns:
      `[D]`, or `[D - 1]` where the first entry is the constant 1.
    """
    if isinstance(self.indexer, indexers.GaussianWithUnitIndexer):
      return index[1:]
    if isinstance(self.indexer, indexers.ScaledGaussianIndexer):
      return index / self.indexer.scale
    return index / math.sqrt(index.shape[0])


def fold_in(keys: jax.Array, number: jax.Array | int) -> jax.Array:
  """Folds one number into each of `[B]` keys."""
  return jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def normal(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """`[B, *shape]` standard normal draws, one from each of `[B]` keys."""
  # Of one dtype, or the draws would change with jax_enable_x64.
  return jax.vmap(lambda k: jax.random.normal(k, shape, jnp.float32))(keys)
