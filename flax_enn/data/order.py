"""The order of the examples in training, an epoch at a time.

It is the order of `grain.MapDataset.shuffle`, which shuffles one position at a
time: a cipher of Feistel's form (Simon's, of four rounds, with the keys of
C++'s `std::seed_seq`) is a permutation of the numbers of so many bits, and a
number that is no example's is enciphered again. A stream that is read through
Grain and one that is not are therefore the same.
"""

from concurrent import futures

import numpy as np

_ROUNDS = 4
_LEAST_BITS = 16
_MASK = 2**32 - 1


class Order:
  """The examples at the positions of an endless stream of shuffled epochs."""

  def __init__(self, length: int, seed: int):
    """Of so many examples, shuffled with this seed of Grain."""
    self._length, self._seed = length, seed
    self._pool = futures.ThreadPoolExecutor(1)
    self._epochs: dict[int, futures.Future[np.ndarray]] = {}

  def __call__(self, start: int, stop: int) -> np.ndarray:
    """`[stop - start]`: the examples at these positions."""
    length = self._length
    epochs = range(start // length, -(-stop // length))
    # With the one after them, so that no step waits for it.
    self._epochs = {
        epoch: self._epochs.get(epoch)
        or self._pool.submit(epoch_order, length, self._seed + epoch)
        for epoch in (*epochs, epochs.stop)
    }
    return np.concatenate([
        self._epochs[e].result()[max(0, start - e * length) : stop - e * length]
        for e in epochs
    ])


def epoch_order(length: int, seed: int) -> np.ndarray:
  """The permutation of `range(length)` that Grain has for one epoch.

  Args:
    length: examples in an epoch.
    seed: what Grain gets, plus the number of the epoch.

  Returns:
    `[length]`: the example at each position.
  """
  # As many bits as Grain takes: 2**bits is below length by one at times, and
  # its last position then has the example of its first.
  bits = max(_LEAST_BITS, (max(length - 2, 0)).bit_length())
  order = _cipher((bits + 1) // 2, _keys(seed % 2**32))
  # In steps, which keep the longest of the walks short.
  while len(order) > length:
    order = _return(order, max(length, len(order) // 8))
  return order[np.arange(length) % len(order)].astype(np.intp)


def _return(order: np.ndarray, length: int) -> np.ndarray:
  """Where each of the first numbers first comes back to one of them."""
  first = order[:length].astype(np.intp)
  (out,) = np.nonzero(first >= length)
  while len(out):
    found = order[first[out]]
    first[out] = found
    out = out[found >= length]
  return first


def _cipher(width: int, keys: list[int]) -> np.ndarray:
  """`[4 ** width]`: what each number of two words of that width becomes."""
  dtype = np.min_scalar_type(2**width - 1)
  mask = dtype.type(2**width - 1)
  words = np.arange(2**width, dtype=dtype)
  left, right = words[:, None], words[None, :]

  def mixed(x):
    one, eight, two = ((x << r) | (x >> (width - r)) for r in (1, 8, 2))
    return ((one & eight) ^ two) & mask

  for i in range(0, _ROUNDS, 2):
    left = left ^ mixed(right) ^ dtype.type(keys[i] & int(mask))
    right = right ^ mixed(left) ^ dtype.type(keys[i + 1] & int(mask))
  numbers = left.astype(np.min_scalar_type(4**width - 1)) << width | right
  return numbers.ravel()


def _keys(seed: int) -> list[int]:
  """`std::seed_seq{seed}.generate` of one number for each round."""
  n, p, q = _ROUNDS, 1, 2
  keys = [0x8B8B8B8B] * n
  added = [1, 1 + seed, 2, 3]
  for k in range(2 * n):
    a, b, c = keys[k % n], keys[(k + p) % n], keys[(k - 1) % n]
    if k < n:
      x, scale = a ^ b ^ c, 1664525
    else:
      x, scale = (a + b + c) & _MASK, 1566083941
    one = scale * (x ^ (x >> 27)) & _MASK
    if k < n:
      two = (one + added[k]) & _MASK
      keys[(k + p) % n] = (b + one) & _MASK
      keys[(k + q) % n] = (keys[(k + q) % n] + two) & _MASK
    else:
      two = (one - k % n) & _MASK
      keys[(k + p) % n] = b ^ one
      keys[(k + q) % n] ^= two
    keys[k % n] = two
  return keys
