"""k-means clustering by Lloyd's algorithm."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_enn.core import promote_to_float32


class Clusters(NamedTuple):
  """K clusters of B points with F entries.

  Attributes:
    centroids: `[K, F]` means of the clusters.
    counts: `[K]` points in each.
    mean_squares: `[K]` mean squared distance of its points from each centroid
      (enn's `std_distance`); 0 of an empty cluster.
    classes: `[B]` cluster of each point.
  """

  centroids: jax.Array
  counts: jax.Array
  mean_squares: jax.Array
  classes: jax.Array


@functools.partial(jax.jit, static_argnames=('num_clusters', 'num_iterations'))
def kmeans(
    x: jax.Array, key: jax.Array, *, num_clusters: int, num_iterations: int
) -> Clusters:
  """Clusters points, starting from K of them at random.

  A cluster that loses all its points keeps its centroid (that of enn's
  `KMeansCluster` jumps to the origin).

  >>> x = jnp.array([[0.0], [1.0], [8.0], [10.0]])
  >>> found = kmeans(
  ...     x, jax.random.key(0), num_clusters=2, num_iterations=5
  ... )
  >>> jnp.sort(found.centroids[:, 0])
  Array([0.5, 9. ], dtype=float32)

  Args:
    x: `[B, F]` points; integers become floats.
    key: of the start.
    num_clusters: K, from 1 to B.
    num_iterations: of assigning points and moving centroids.

  Raises:
    ValueError: there are fewer points than clusters, or no cluster.
  """
  if not 1 <= num_clusters <= len(x):
    raise ValueError(
        f'num_clusters is {num_clusters}, but there are {len(x)} points; set it'
        ' to that or less, and to 1 at least'
    )
  x = promote_to_float32(x)
  rows = jax.random.choice(key, len(x), (num_clusters,), replace=False)

  def move(_, centroids):
    members = _members(x, centroids)
    counts = members.sum(0)[:, None]
    means = members.T @ x / jnp.maximum(counts, 1)
    return jnp.where(counts > 0, means, centroids)

  centroids = jax.lax.fori_loop(0, num_iterations, move, x[rows])
  members = _members(x, centroids)
  counts = members.sum(0)
  squares = (members * _squares(x, centroids)).sum(0)
  return Clusters(
      centroids, counts, squares / jnp.maximum(counts, 1), members.argmax(1)
  )


def _squares(x: jax.Array, centroids: jax.Array) -> jax.Array:
  """`[B, K]` squared distances, one centroid at a time."""
  # Of differences: |x|^2 - 2 x.c + |c|^2 cancels far from the origin.
  return jax.lax.map(
      lambda centroid: jnp.square(x - centroid).sum(-1), centroids
  ).T


def _members(x: jax.Array, centroids: jax.Array) -> jax.Array:
  """`[B, K]` one-hot nearest centroid of each point."""
  nearest = _squares(x, centroids).argmin(-1)
  return jax.nn.one_hot(nearest, len(centroids), dtype=x.dtype)
