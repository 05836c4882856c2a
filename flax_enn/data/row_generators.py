"""Random numbers for every row of a batch, as of a generator of its own.

A row is at a position of the endless stream of training, and draws what
`grain.MapDataset.random_map` would let it draw there: numpy's `Generator` of a
Philox cipher (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3",
2011: 10 rounds on four words of 64 bits), whose counter is that position. All
rows are enciphered at once, so that no example costs a call.
"""

import numpy as np

_ROUNDS = 10
_MULTIPLIERS = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], np.uint64)
_WEYL = np.array([[0x9E3779B97F4A7C15], [0xBB67AE8584CAA73B]], np.uint64)
_HALF, _LOW = np.uint64(32), np.uint64(2**32 - 1)


class RowGenerators:
  """One generator for each row, with two of the methods of numpy's."""

  def __init__(self, seed: int, positions: np.ndarray):
    """Begins the streams of these rows.

    Args:
      seed: of `random_map`.
      positions: `[B]` of the rows, in the stream.
    """
    state = np.random.Philox(seed).state['state']
    self._key = state['key'][:, None]
    self._positions = np.asarray(positions, np.uint64)
    self._words = np.zeros((0, len(self._positions)), np.uint64)
    self._taken = np.zeros(len(self._positions), int)
    # Of a word of which one half was taken, the other one.
    self._kept = np.zeros(len(self._positions), np.uint64)
    self._has_kept = np.zeros(len(self._positions), bool)

  def random(self) -> np.ndarray:
    """`[B]` float64 in [0, 1)."""
    rows = np.arange(len(self._positions))
    return (self._next_64(rows) >> np.uint64(11)) * 2.0**-53

  def integers(self, low: int, high: int) -> np.ndarray:
    """`[B]` int64, at least `low` and below `high` (less than 2**32 above it).

    By the method of Lemire (arXiv:1805.10941), which draws again where a
    product would be more likely than others.
    """
    if not 0 < high - low <= 2**32 - 1:
      raise ValueError(
          f'no integer can be drawn from {low} to below {high}; expected at'
          ' least one, and fewer than 2**32'
      )
    count = np.uint64(high - low)
    if count == 1:  # draws nothing, as numpy
      return np.full(len(self._positions), low)
    drawn = np.zeros(len(self._positions), np.uint64)
    rows = np.arange(len(self._positions))
    while len(rows):
      drawn[rows] = self._next_32(rows) * count
      rows = rows[(drawn[rows] & _LOW) < (_LOW + np.uint64(1)) % count]
    return low + (drawn >> _HALF).astype(np.int64)

  def _next_32(self, rows: np.ndarray) -> np.ndarray:
    """The lower half of a new word, then the upper half of the same."""
    half, new = self._kept[rows], ~self._has_kept[rows]
    words = self._next_64(rows[new])
    half[new], self._kept[rows[new]] = words & _LOW, words >> _HALF
    self._has_kept[rows] = new
    return half

  def _next_64(self, rows: np.ndarray) -> np.ndarray:
    taken = self._taken[rows]
    while len(rows) and taken.max() >= len(self._words):
      self._words = np.concatenate([self._words, self._block()])
    self._taken[rows] += 1
    return self._words[taken, rows]

  def _block(self) -> np.ndarray:
    """`[4, B]`: the next four words of every row."""
    size = len(self._positions)
    zeros, number = np.zeros(size, np.uint64), len(self._words) // 4 + 1
    even = np.stack([np.full(size, number, np.uint64), zeros])
    odd, key = np.stack([zeros, self._positions]), self._key
    for _ in range(_ROUNDS):
      high, low = _product(even, _MULTIPLIERS)
      even, odd = high[::-1] ^ odd ^ key, low[::-1]
      key = key + _WEYL
    return np.stack([even[0], odd[0], even[1], odd[1]])


class OneRow:
  """A generator of numpy in the form of those of a batch of one row."""

  def __init__(self, rng: np.random.Generator):
    """Draws from this one."""
    self._rng = rng

  def random(self) -> np.ndarray:
    """`[1]` in [0, 1)."""
    return self._rng.random(1)

  def integers(self, low: int, high: int) -> np.ndarray:
    """`[1]`, at least `low` and below `high`."""
    return self._rng.integers(low, high, 1)


Generators = RowGenerators | OneRow


def _product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The upper and the lower 64 bits of products of 64 bits each."""
  a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW, b >> _HALF, b & _LOW
  cross = a_high * b_low + (a_low * b_low >> _HALF)
  middle = a_low * b_high + (cross & _LOW)
  return a_high * b_high + (cross >> _HALF) + (middle >> _HALF), a * b
