"""The likelihood of a number whose distribution is a histogram."""

import dataclasses

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
  in the two-hot targets of enn's categorical regression. Unlike their
  cross-entropy this is a density in y: `nll` compares with other likelihoods.

  >>> TwoHot(0.0, 2.0, 3).log_prob(jnp.zeros((1, 3)), jnp.ones((1, 1)))
  Array([-1.0986123], dtype=float32)

  Attributes:
    low: the first atom; targets below it are refused.
    high: the last atom; targets above it are refused.
    atoms: number of atoms, at equal distances; C, where there is no shift.
    shift: whether the network emits one more output, by which all atoms are
      moved, in the units of y: the place of a prior function that is a number.
      A target beyond the atoms is then possible, and has the density 0.
  """

  low: float
  high: float
  atoms: int
  shift: bool = False

  def __post_init__(self):
    if not self.low < self.high or self.atoms < 2:
      raise ValueError(
          f'low is {self.low}, high is {self.high} and atoms {self.atoms}; low'
          ' must be below high and there must be at least 2 atoms'
      )

  @property
  def outputs(self) -> int:
    return self.atoms + self.shift

  @property
  def target(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1,), jnp.float32)

  def log_prob(self, outputs: jax.Array, y: jax.Array) -> jax.Array:
    # Half hats have half the area, so they are twice as high.
    ends = jnp.zeros(self.atoms).at[jnp.array([0, -1])].set(jnp.log(2.0))
    logits, shift = self.parts(outputs)
    heights = jax.nn.log_softmax(logits) + ends
    y = promote_to_float32(y) - shift
    place = (y[..., 0] - self.low) / self._width
    lower = jnp.clip(jnp.floor(place), 0, self.atoms - 2)
    share = place - lower
    pairs = [(lower, 1 - share), (lower + 1, share)]
    terms = [self._at(heights, k) + jnp.log(w) for k, w in pairs]
    inside = (place >= 0) & (place <= self.atoms - 1)
    density = jnp.logaddexp(*terms) - jnp.log(self._width)
    return jnp.where(inside, density, -jnp.inf if self.shift else jnp.nan)

  def parts(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Logits `[..., B, atoms]` and shift `[..., B, 1]` of outputs."""
    outputs = self.checked(outputs)
    shift = outputs[..., self.atoms :]
    return outputs[..., : self.atoms], shift.sum(-1, keepdims=True)

  def two_hot(self, y: jax.Array) -> jax.Array:
    """`[..., atoms]` weights of the two atoms beside y `[..., 1]`.

    Their mean is y, or the nearest atom where y is beyond all.
    """
    place = (promote_to_float32(y) - self.low) / self._width
    place = jnp.clip(place, 0, self.atoms - 1)
    return jnp.maximum(0, 1 - jnp.abs(place - jnp.arange(self.atoms)))

  def init_stats(self, batch_size: int) -> MeanStats:
    return MeanStats.zeros(self, (batch_size, 1))

  def moments(self, outputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance `[..., 1]` of y under logits `[..., C]`."""
    logits, shift = self.parts(outputs)
    probs = jax.nn.softmax(logits)
    # Centre and variance of a triangle, and of half of one at the ends.
    h = self._width
    centres = np.linspace(self.low, self.high, self.atoms)
    centres[[0, -1]] += [h / 3, -h / 3]
    own = np.full(self.atoms, h**2 / 6)
    own[[0, -1]] = h**2 / 18
    mean = (probs * centres).sum(-1, keepdims=True)
    spread = jnp.square(centres - mean) + own
    return mean + shift, (probs * spread).sum(-1, keepdims=True)

  def check_targets(self, y: np.ndarray) -> tuple[np.ndarray, str]:
    bad = np.any((y < self.low) | (y > self.high), axis=-1, keepdims=False)
    if self.shift:
      return np.zeros(len(y), bool), 'targets are any finite numbers'
    return bad, f'targets of TwoHot lie between {self.low} and {self.high}'

  @property
  def _width(self) -> float:
    """Distance of two atoms."""
    return (self.high - self.low) / (self.atoms - 1)

  def _at(self, heights: jax.Array, k: jax.Array) -> jax.Array:
    """The entries `[..., B]` of `[..., B, C]` at atoms k `[B]`."""
    k = jnp.broadcast_to(k.astype(jnp.int32), heights.shape[:-1])
    return jnp.take_along_axis(heights, k[..., None], -1, mode='clip')[..., 0]
