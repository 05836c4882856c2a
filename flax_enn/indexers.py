"""Indexers: the distributions an epistemic index is drawn from.

Index i of `sample(key, n)` is drawn with `fold_in(key, i)`, as in enn
(`enn/utils.py:make_batch_indexer`), so it depends neither on n nor on how the
n indices are laid out over devices.
"""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp

from flax_enn.core import Index
from flax_enn.field_checks import check_positive


class _Independent:
  """Indices drawn independently of each other, each from its own key."""

  def draw(self, key: jax.Array) -> Index:
    """Draws one index from one key."""
    raise NotImplementedError

  def sample(self, key: jax.Array, n: int) -> Index:
    """Draws `[n, ...]` independent indices."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
    return jax.vmap(self.draw)(keys)

  def standardize(self, index: Index) -> jax.Array | None:
    """A Gaussian index scaled to E|u|^2 = 1; None where it is not Gaussian."""
    del index
    return None


class _Continuous(_Independent):
  """Indices without a finite support."""

  @property
  def size(self) -> int | None:
    return None


@dataclasses.dataclass(frozen=True)
class GaussianIndexer(_Continuous):
  """z ~ N(0, I), `[D]`: the index of the epinet (paper, section 3)."""

  dim: int

  def __post_init__(self):
    check_positive(self, 'dim')

  def draw(self, key: jax.Array) -> Index:
    return jax.random.normal(key, (self.dim,))

  @property
  def mean_index(self) -> Index:
    return jnp.zeros(self.dim)

  def standardize(self, index: Index) -> jax.Array:
    return index / math.sqrt(self.dim)


@dataclasses.dataclass(frozen=True)
class ScaledGaussianIndexer(_Continuous):
  """z ~ N(0, scale^2 / D I), `[D]`: a norm of about `scale` whatever D is."""

  dim: int
  scale: float = 1.0

  def __post_init__(self):
    check_positive(self, 'dim', 'scale')

  def draw(self, key: jax.Array) -> Index:
    return self.scale / jnp.sqrt(self.dim) * jax.random.normal(key, (self.dim,))

  @property
  def mean_index(self) -> Index:
    return jnp.zeros(self.dim)

  def standardize(self, index: Index) -> jax.Array:
    return index / self.scale


@dataclasses.dataclass(frozen=True)
class GaussianWithUnitIndexer(_Continuous):
  """z = (1, u), u ~ N(0, I / (D - 1)), `[D]`: an index with a bias entry."""

  dim: int

  def __post_init__(self):
    if self.dim < 2:  # u would be empty, and all indices equal
      raise ValueError(
          f'the `dim` of GaussianWithUnitIndexer is {self.dim}, with its'
          ' constant entry; set it to at least 2'
      )

  def draw(self, key: jax.Array) -> Index:
    u = jax.random.normal(key, (self.dim - 1,)) / jnp.sqrt(self.dim - 1)
    return jnp.append(1.0, u)

  @property
  def mean_index(self) -> Index:
    return jnp.append(1.0, jnp.zeros(self.dim - 1))

  def standardize(self, index: Index) -> jax.Array:
    return index[1:]  # `[D - 1]`, without the constant


@dataclasses.dataclass(frozen=True)
class DirichletIndexer(_Continuous):
  """z ~ Dirichlet(alpha), `[D]` on the simplex."""

  alpha: Sequence[float]

  def __post_init__(self):
    # A tuple, so that the indexer hashes whatever it was given.
    object.__setattr__(self, 'alpha', tuple(self.alpha))
    check_positive(self, 'alpha')

  def draw(self, key: jax.Array) -> Index:
    return jax.random.dirichlet(key, jnp.asarray(self.alpha, jnp.float32))

  @property
  def mean_index(self) -> Index:
    alpha = jnp.asarray(self.alpha, jnp.float32)
    return alpha / alpha.sum()


@dataclasses.dataclass(frozen=True)
class EnsembleIndexer(_Independent):
  """One-hot `[K]` choice of an ensemble member.

  `draw` picks a member at random, as enn does (which returns its number).
  `sample` is stratified: every K consecutive indices hold each member once, in
  random order, so that n == K enumerates the ensemble. A network that ignores
  its index has this one with K = 1.
  """

  size: int

  def __post_init__(self):
    check_positive(self, 'size')

  def draw(self, key: jax.Array) -> Index:
    return jax.nn.one_hot(jax.random.randint(key, (), 0, self.size), self.size)

  def sample(self, key: jax.Array, n: int) -> Index:
    rounds = jnp.arange(-(-n // self.size))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rounds)
    order = jax.vmap(lambda k: jax.random.permutation(k, self.size))(keys)
    return jax.nn.one_hot(order.reshape(-1)[:n], self.size)

  @property
  def mean_index(self) -> Index:
    return jnp.full(self.size, 1 / self.size)


@dataclasses.dataclass(frozen=True)
class PrngIndexer(_Continuous):
  """The index is a typed PRNG key `[]`, for networks that draw for themselves.

  Drawn from a raw key (`jax.random.PRNGKey`, uint32[2]), it is typed all the
  same.
  """

  @property
  def mean_index(self) -> Index | None:
    return None

  def draw(self, key: jax.Array) -> Index:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      return key
    return jax.random.wrap_key_data(key)
