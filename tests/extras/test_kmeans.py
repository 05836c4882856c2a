"""k-means against a loop over points, and its law of empty clusters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.extras import kmeans
from tests.golden import cases
from tests.golden.test_golden_losses import keyed


def test_kmeans_against_a_loop():
  x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
  key, k = jax.random.key(1), 3
  found = kmeans(jnp.asarray(x), key, num_clusters=k, num_iterations=4)
  centroids = x[jax.random.choice(key, len(x), (k,), replace=False)]

  def nearest(point):
    return np.argmin([np.sum((point - c) ** 2) for c in centroids])

  for _ in range(4):
    classes = np.array([nearest(point) for point in x])
    centroids = np.stack([x[classes == c].mean(0) for c in range(k)])
  classes = np.array([nearest(point) for point in x])
  np.testing.assert_allclose(found.centroids, centroids, rtol=1e-5)
  np.testing.assert_array_equal(found.classes, classes)
  np.testing.assert_array_equal(found.counts, np.bincount(classes))
  squares = [
      np.square(x[classes == c] - centroids[c]).sum(-1).mean() for c in range(k)
  ]
  np.testing.assert_allclose(found.mean_squares, squares, rtol=1e-4)


def test_an_empty_cluster_stays_where_it_is():
  """Two equal starts: the second never is the nearest. enn's goes to 0."""
  x = jnp.array([[5.0], [5.0], [5.0]])
  found = kmeans(x, jax.random.key(0), num_clusters=2, num_iterations=3)
  np.testing.assert_array_equal(found.centroids, [[5.0], [5.0]])
  np.testing.assert_array_equal(found.counts, [3, 0])
  np.testing.assert_array_equal(found.mean_squares, [0, 0])


@pytest.mark.parametrize('clusters', [-1, 0, 3])
def test_no_clusters_and_more_than_points_are_refused(clusters):
  says = f'num_clusters is {clusters}, but there are 2'
  with pytest.raises(ValueError, match=says):
    key = jax.random.key(0)
    kmeans(jnp.ones((2, 1)), key, num_clusters=clusters, num_iterations=1)


@pytest.mark.parametrize('dtype', [np.int32, np.uint8, jnp.bfloat16])
def test_points_of_other_dtypes_are_clustered_as_floats(dtype):
  x = np.array([[0], [1], [8], [10]], dtype)
  run = functools.partial(
      kmeans, key=jax.random.key(0), num_clusters=2, num_iterations=5
  )
  for found, expected in zip(run(x), run(x.astype(np.float32))):
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_golden_kmeans():
  """enn calls the mean of squares a standard deviation."""
  case = cases.load_case('extra/kmeans')
  found = kmeans(
      jnp.asarray(case['in::x'], jnp.float32),
      keyed(case['in::key']),
      num_clusters=case.kwargs['num_centroids'],
      num_iterations=case.kwargs['num_iterations'],
  )
  cases.assert_close(found.centroids, case['ret::centroids'])
  cases.assert_close(found.counts, case['ret::counts_per_centroid'])
  cases.assert_close(found.mean_squares, case['ret::std_distance'])
  np.testing.assert_array_equal(found.classes, case['ret::classes'])
