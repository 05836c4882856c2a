"""Random crops, flips and cutouts of small images."""

import collections

import numpy as np
import pytest

from flax_enn.data.augmentation import random_crop, random_cutout, random_flip
from flax_enn.data.row_generators import OneRow, RowGenerators

X = np.arange(1, 1 + 6 * 5 * 2, dtype=np.float32).reshape(6, 5, 2)


def many(change, *args, n=2000):
  images = np.repeat(X[None], n, axis=0)
  return change(images, *args, RowGenerators(0, np.arange(n)))


def test_crops_are_uniform_over_offsets():
  padded = np.pad(X, ((2, 2), (2, 2), (0, 0)))
  windows = {
      padded[i : i + 6, j : j + 5].tobytes(): (i, j)
      for i in range(5)
      for j in range(5)
  }
  found = collections.Counter(
      windows[x.tobytes()] for x in many(random_crop, 2)
  )
  counts = np.array([found[place] for place in windows.values()])
  expected = counts.sum() / 25
  # The chi-squared statistic of 24 degrees of freedom: 51.2 has p = 0.001.
  assert (np.square(counts - expected) / expected).sum() < 51.2


def test_flips_half_of_them():
  results = many(random_flip)
  flipped = [np.array_equal(x, X[:, ::-1]) for x in results]
  assert all(f or np.array_equal(x, X) for f, x in zip(flipped, results))
  assert 0.45 < np.mean(flipped) < 0.55


def test_cutout_is_a_square_inside_half_of_them():
  places = collections.Counter()
  for x in many(random_cutout, 3):
    rows, columns = np.nonzero((x == 0).all(-1))
    if len(rows):
      assert (np.ptp(rows), np.ptp(columns), len(rows)) == (2, 2, 9)
      places[rows.min(), columns.min()] += 1
    untouched = x != 0
    np.testing.assert_array_equal(x[untouched], X[untouched])
  assert 0.45 < places.total() / 2000 < 0.55
  assert set(places) == {(i, j) for i in range(4) for j in range(3)}
  assert min(places.values()) > places.total() / 12 / 2


@pytest.mark.parametrize(
    'change, args',
    [(random_crop, (2,)), (random_flip, ()), (random_cutout, (3,))],
)
def test_the_generators_decide_all(change, args):
  a, b = many(change, *args, n=20), many(change, *args, n=20)
  np.testing.assert_array_equal(a, b)
  assert len({x.tobytes() for x in a}) > 1
  images = np.repeat(X[None], 20, axis=0)
  change(images, *args, RowGenerators(0, np.arange(20)))
  np.testing.assert_array_equal(images, X[None].repeat(20, 0))  # left alone
  for i, x in enumerate(a):  # each by itself, as Grain would have it
    alone = change(X[None], *args, OneRow(numpys(0, i)))
    np.testing.assert_array_equal(alone[0], x)


@pytest.mark.parametrize('change', [random_crop, random_cutout])
def test_zero_changes_nothing(change):
  images = X[None]
  assert change(images, 0, OneRow(np.random.default_rng(0))) is images


@pytest.mark.parametrize('high', [3, 2, 3 + 2**32])
def test_what_cannot_be_drawn(high):
  with pytest.raises(ValueError, match=f'from 3 to below {high}'):
    RowGenerators(0, np.arange(2)).integers(3, high)


def numpys(seed, position):
  """The generator that Grain has at a position."""
  philox = np.random.Philox(seed)
  state = philox.state
  state['state']['counter'][-1] = position
  philox.state = state
  return np.random.Generator(philox)


# A draw of the last two is refused in half of all cases, and so drawn again.
@pytest.mark.parametrize('seed', [0, 7, 2**32 - 1])
def test_rows_draw_what_numpy_draws(seed):
  positions = np.r_[np.arange(100), 2**40 + np.arange(5)]
  calls = [(0, 9), (0, 9), (), (3, 4), (), (-2, 2**31 + 9), (0, 2**31 + 11), ()]

  def draw(rng):
    return [rng.integers(*call) if call else rng.random() for call in calls]

  found = np.array(draw(RowGenerators(seed, positions)), object)
  for column, position in zip(found.T, positions):
    assert column.tolist() == draw(numpys(seed, int(position)))
