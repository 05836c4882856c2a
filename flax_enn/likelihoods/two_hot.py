"""The likelihood of a number whose distribution is a histogram."""

from collections.abc import Sequence
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import promote_to_float32
from flax_enn.likelihoods.base import Likelihood, MeanStats


@dataclasses.dataclass(frozen=True)
class TwoHot(Likelihood):
  """A mixture of hats around atoms; the network emits the logits of the atoms.

  Each atom is a triangle that falls to zero at its neighbours (those at the
  ends are half of one), so that a target depends on the two atoms beside it, as
  in the two-hot targets of enn's categorical regression. Between neighbours at
  unequal distances its two halves are weighted so that its mean is the atom.
  Unlike their cross-entropy this is a density in y: `nll` compares with other
  likelihoods.

  >>> TwoHot(0.0, 2.0, 3).log_prob(jnp.zeros((1, 3)), jnp.ones((1, 1)))
  Array([-1.0986123], dtype=float32)
  >>> TwoHot(atoms=(0.0, 1.0, 5.0)).two_hot(jnp.array([[2.0]]))
  Array([[0.  , 0.75, 0.25]], dtype=float32)

  Attributes:
    low: the first atom; targets below it are refused.
    high: the last atom; targets above it are refused.
    atoms: number of atoms, at equal distances; C, where there is no shift. Or,
      without `low` and `high`, the atoms themselves, in ascending order.
    shift: whether the network emits one more output, by which all atoms are
      moved, in the units of y: the place of a prior function that is a number.
      A target beyond the atoms is then possible, and has the density 0.
  """

  low: float | None = None
  high: float | None = None
  atoms: int | Sequence[float] = ()
  shift: bool = False

  def __post_init__(self):
    low, high = self.low, self.high
    if not isinstance(self.atoms, (int, np.integer)):
      object.__setattr__(self, 'atoms', tuple(map(float, self.atoms)))
      if low is not None or high is not None:
        raise ValueError(
            f'low is {low}, high is {high} and atoms the list {self.atoms};'
            ' leave low and high out, or set atoms to a number of atoms'
        )
    elif (
        low is None
        or high is None
        or not -math.inf < low < high < math.inf
        or self.atoms < 2
    ):
      raise ValueError(
          f'low is {low}, high is {high} and atoms {self.atoms}; low must be'
          ' below high, both finite, and there must be at least 2 atoms'
      )
    places = self.places.astype(np.float32)
    rising = (np.diff(places) > 0).all() and np.isfinite(places).all()
    if len(places) < 2 or not rising:
      raise ValueError(
          f'the atoms of {self} are {places.tolist()} in float32; they must be'
          ' at least 2 finite numbers, each above the one before it'
      )

  @property
  def places(self) -> np.ndarray:
    """The atoms, in ascending order."""
    low, high, atoms = self.low, self.high, self.atoms
    if isinstance(atoms, Sequence) or low is None or high is None:
      return np.array(atoms)
    return np.linspace(low, high, atoms)

  @property
  def outputs(self) -> int:
    return len(self.places) + self.shift

  @property
  def target(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1,), jnp.float32)

  def log_prob(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
    logits, shift = self.parts(outputs)
    log_probs = jax.nn.log_softmax(logits)
    k, share = self._beside(promote_to_float32(y)[..., 0] - shift[..., 0])
    # Of the hat of atom k what is above it, of that of k + 1 what is below it.
    before, widths, _ = self._hats()
    peaks = np.log(2 * np.stack([1 - before[:-1], before[1:]]) / widths[:-1])
    above, below = jnp.asarray(peaks, log_probs.dtype)[:, k]
    inside = (share >= 0) & (share <= 1)
    share = jnp.where(inside, share, 0.5)
    terms = self._at(log_probs, k) + above, self._at(log_probs, k + 1) + below
    # Not of the logarithm of a share, whose gradient at an atom is infinite.
    most = jax.lax.stop_gradient(
        jnp.maximum(
            jnp.where(share < 1, terms[0], -jnp.inf),
            jnp.where(share > 0, terms[1], -jnp.inf),
        )
    )
    one, two = (jnp.exp(jnp.minimum(term - most, 30.0)) for term in terms)
    density = most + jnp.log((1 - share) * one + share * two)
    return jnp.where(inside, density, -jnp.inf if self.shift else jnp.nan)

  def parts(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `[..., B, atoms]` and shift `[..., B, 1]` of outputs."""
    outputs = self.checked(outputs)
    logits, shift = jnp.split(outputs, [len(self.places)], axis=-1)
    return logits, shift.sum(-1, keepdims=True)

  def two_hot(self, y: jax.Array) -> jax.Array:
    """`[..., atoms]` weights of the two atoms beside y `[..., 1]`.

    Their mean is y, or the nearest atom where y is beyond all.
    """
    k, share = self._beside(promote_to_float32(y))
    share = jnp.clip(share, 0, 1)
    atom = jnp.arange(len(self.places))
    return (atom == k) * (1 - share) + (atom == k + 1) * share

  def init_stats(self, batch_size: int) -> MeanStats:
    return MeanStats.zeros(self, (batch_size, 1))

  def moments(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance `[..., 1]` of y under logits `[..., C]`."""
    logits, shift = self.parts(outputs)
    probs = jax.nn.softmax(logits)
    # How far the mean of a hat is from its atom (at the ends), its variance.
    before, after, last = self._hats()
    offset = ((1 - before) * after - before * last) / 3
    own = ((1 - before) * after**2 + before * last**2) / 6 - offset**2
    centres = self.places + offset
    mean = (probs * centres).sum(-1, keepdims=True)
    spread = jnp.square(centres - mean) + own
    return mean + shift, (probs * spread).sum(-1, keepdims=True)

  def check_targets(self, y: np.ndarray) -> tuple[np.ndarray, str]:
    low, *_, high = self.places.tolist()
    bad = np.any((y < low) | (y > high), axis=-1, keepdims=False)
    if self.shift:
      return np.zeros(len(y), bool), 'targets are any finite numbers'
    return bad, f'targets of TwoHot lie between {low} and {high}'

  def _beside(self, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The atom k below each y, and how far y is from k towards k + 1.

    That is 0 to 1, but below all atoms, and above all.
    """
    places = jnp.asarray(self.places, y.dtype)
    k = (y[..., None] >= places[1:-1]).sum(-1)
    return k, (y - places[k]) / (places[k + 1] - places[k])

  def _hats(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each hat: mass before its atom, distances to the next and the last."""
    distances = np.diff(self.places)
    after, last = np.append(distances, 0), np.append(0, distances)
    before = after / (after + last)
    before[[0, -1]] = 0, 1
    return before, after, last

  def _at(self, heights: jax.Array, k: jax.Array) -> jax.Array:
    """The entries `[..., B]` of `[..., B, C]` at atoms k `[B]`."""
    k = jnp.broadcast_to(k, heights.shape[:-1])
    return jnp.take_along_axis(heights, k[..., None], -1, mode='clip')[..., 0]
