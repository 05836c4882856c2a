"""The types every part of flax_enn shares.

Shapes are written with one set of letters everywhere:

  N  epistemic indices            D  dimension of an index
  B  examples in a batch          F  features
  C  classes, or outputs          K  ensemble members

An epistemic neural network is a function `f(x, z)` of an input and an
epistemic index (Osband et al., "Epistemic Neural Networks",
arXiv:2107.08924, section 2). Here it is a Linen module that computes
`f(x, z)` for ONE index; `flax_enn.sampling.over_index` maps it over many.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from flax import struct
import jax
import jax.numpy as jnp

Index = jax.Array  # one index: [D] float, [K] one-hot, or a typed PRNG key []
Variables = Mapping[str, Any]  # {'params': ..., 'frozen': ..., ...}

# The id that a host gives to rows that it could not read: a step with one of
# them changes nothing, on any host.
BLANK = -2


class Batch(struct.PyTreeNode):
  """Examples with what is known of them; every leaf has a leading axis B.

  Attributes:
    x: `[B, ...]` inputs, an array or a pytree of arrays.
    y: `[B]` integer labels or `[B, dim]` float targets, as the likelihood says.
    weight: `[B]` float weight of each example, 1 by default.
    id: `[B]` int32 number of the example in its data set, the same on every
      host and in every epoch (bootstrap weights depend on it); -1 for padding,
      `BLANK` where a host has nothing to train on.
    mask: `[B]` float, 1 for an example and 0 for padding.
  """

  x: Any
  y: Any
  weight: Any
  id: Any
  mask: Any


class Output(struct.PyTreeNode):
  """The outputs of a network for a batch at one index.

  Attributes:
    train: `[B, C]` logits or means that are trained.
    prior: `[B, C]` part that is never trained, or None. (Not the number 0: a
      scalar would not broadcast once the index is mapped over.)
    base: `[B, C]` output of the base alone, which does not depend on the index;
      None where there is no base. Evaluation scores it beside `preds`.
    extra: named further results: features, latents, generated parameters.
  """

  train: jax.Array
  prior: jax.Array | None = None
  base: jax.Array | None = None
  extra: dict[str, Any] = struct.field(default_factory=dict)

  @property
  def preds(self) -> jax.Array:
    """`[B, C]`: the trained part plus the prior, with no gradient to it."""
    if self.prior is None:
      return self.train
    return self.train + jax.lax.stop_gradient(self.prior)


@runtime_checkable
class Indexer(Protocol):
  """The reference distribution of the epistemic index."""

  @property
  def size(self) -> int | None:
    """K where the index is one of K one-hot vectors or numbers, else None."""
    ...

  @property
  def mean_index(self) -> Index | None:
    """The mean of the distribution, or None where it has none (a key)."""
    ...

  def sample(self, key: jax.Array, n: int) -> Index:
    """Draws `[n, ...]` indices; index i depends on (key, i) alone."""
    ...

  def standardize(self, index: Index) -> jax.Array | None:
    """A Gaussian index `[D]` scaled to E|u|^2 = 1; None for other indices."""
    ...


@runtime_checkable
class EpistemicNetwork(Protocol):
  """A Linen module that computes `f(x, z)` for one index, and its indexer.

  `init` and `apply` are those of every `flax.linen.Module`. `train=True` means:
  update batch statistics, and draw from the step's random streams (`dropout`
  …). What differs between functions is the index and nothing else.
  """

  init: Callable[..., Any]
  apply: Callable[..., Any]

  @property
  def indexer(self) -> Indexer:
    """The distribution that `index` is drawn from."""
    ...

  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the outputs of the batch `x` at one `index`."""
    ...


class Example(NamedTuple):
  """A tiny network that its file offers to the tests of the laws.

  Attributes:
    network: an `EpistemicNetwork`.
    x: `[B, ...]` inputs, an array or a pytree.
    index_free: names of those of its modules whose work does not depend on the
      index: that it runs once for any number of indices, on any mesh, is tested
      for these.
  """

  network: Any
  x: Any
  index_free: tuple[str, ...] = ()


def promote_to_float32(x: Any) -> jax.Array:
  """Results of a computation in bfloat16 as float32; wider ones as they are."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))
