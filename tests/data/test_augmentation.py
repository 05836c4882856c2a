"""Random crops, flips and cutouts of small images."""

import collections

import numpy as np
import pytest

from flax_enn.data.augmentation import random_crop, random_cutout, random_flip

X = np.arange(1, 1 + 6 * 5 * 2, dtype=np.float32).reshape(6, 5, 2)


def many(change, *args, n=2000):
  rng = np.random.default_rng(0)
  return [change(X, *args, rng) for _ in range(n)]


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
def test_the_generator_decides_all(change, args):
  a, b = (
      [change(X, *args, rng) for _ in range(20)]
      for rng in (np.random.default_rng(7), np.random.default_rng(7))
  )
  np.testing.assert_array_equal(a, b)
  assert len({x.tobytes() for x in a}) > 1
  assert X[0, 0, 0] == 1  # the image itself is left alone


@pytest.mark.parametrize('change', [random_crop, random_cutout])
def test_zero_changes_nothing(change):
  assert change(X, 0, np.random.default_rng(0)) is X
