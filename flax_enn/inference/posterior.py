"""Sampling the posterior of the index: sequential Monte Carlo."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flax_enn.core import Index, Indexer
from flax_enn.inference.functions import effective_sample_size

MOVES = 5  # of every index at every power of the likelihood
_MOST_SHRINKS = 50  # of the slice of one move; then the index stays
_STAGE_EFFECTIVE = 0.5  # share of the indices that count between two stages


def sample(
    key: jax.Array,
    indexer: Indexer,
    indices: Index,
    log_weights: jax.Array,
    log_likelihood: Callable[[Index], jax.Array],
) -> tuple[Index, jax.Array]:
  """Draws indices from the posterior of a Gaussian law and a likelihood.

  A sequential Monte Carlo sampler (Del Moral, Doucet and Jasra, 2006): the
  likelihood is raised to powers that grow to 1, each as far as half of the
  indices still count; then they are resampled (systematically) and moved by
  elliptical slice sampling (Murray, Adams and MacKay, arXiv:1001.0175), which
  leaves the law of z times that power invariant.

  Args:
    key: all randomness comes from.
    indexer: of a Gaussian law.
    indices: `[N, D]` drawn from it.
    log_weights: `[N]` of these.
    log_likelihood: of `[N, D]` indices, `[N]`.

  Returns:
    `[N, D]` indices and `[N]` log-weights, all zero.
  """
  n = len(indices)

  def stage(carry: Any) -> Any:
    key, z, log_w, ll, power = carry
    key, resampling, moving = jax.random.split(key, 3)
    step = _next_power(log_w, ll, power) - power
    rows = _systematic(resampling, log_w + step * ll)
    z, ll, power = z[rows], ll[rows], power + step

    def move(state: Any, key: jax.Array) -> Any:
      z, ll = state
      return _slice(key, indexer, z, ll, power, log_likelihood), None

    (z, ll), _ = jax.lax.scan(move, (z, ll), jax.random.split(moving, MOVES))
    return key, z, jnp.zeros(n), ll, power

  start = key, indices, log_weights, log_likelihood(indices), jnp.zeros(())
  _, z, log_w, _, _ = jax.lax.while_loop(
      lambda carry: carry[-1] < 1, stage, start
  )
  return z, log_w


def _next_power(
    log_w: jax.Array, ll: jax.Array, power: jax.Array
) -> jax.Array:
  """The power of the likelihood at which few enough indices still count."""
  ll = ll - ll.max()
  least = _STAGE_EFFECTIVE * effective_sample_size(log_w)

  def enough(new: jax.Array) -> jax.Array:
    return effective_sample_size(log_w + (new - power) * ll) >= least

  def halve(_: Any, ends: Any) -> Any:
    low, high = ends
    middle = (low + high) / 2
    good = enough(middle)
    return jnp.where(good, middle, low), jnp.where(good, high, middle)

  _, high = jax.lax.fori_loop(0, 30, halve, (power, jnp.ones(())))
  return jnp.where(enough(jnp.ones(())), 1.0, high)


def _systematic(key: jax.Array, log_w: jax.Array) -> jax.Array:
  """`[N]` rows, each as often as its weight says, to less than one."""
  n = len(log_w)
  cumulative = jnp.cumsum(jax.nn.softmax(log_w))
  places = (jax.random.uniform(key) + jnp.arange(n)) / n * cumulative[-1]
  return jnp.minimum(jnp.searchsorted(cumulative, places), n - 1)


def _slice(
    key: jax.Array,
    indexer: Indexer,
    z: Index,
    ll: jax.Array,
    power: jax.Array,
    log_likelihood: Callable[[Index], jax.Array],
) -> tuple[Index, jax.Array]:
  """One elliptical slice move of each index."""
  n = len(z)
  draw, level, angle, key = jax.random.split(key, 4)
  mean = jnp.asarray(indexer.mean_index)
  other = indexer.sample(draw, n) - mean
  height = power * ll + jnp.log(jax.random.uniform(level, (n,), minval=1e-37))
  theta = jax.random.uniform(angle, (n,), maxval=2 * jnp.pi)

  def at(theta: jax.Array) -> Index:
    cos, sin = jnp.cos(theta)[:, None], jnp.sin(theta)[:, None]
    return mean + (z - mean) * cos + other * sin

  def shrink(carry: Any) -> Any:
    i, theta, low, high, done, new, new_ll = carry
    proposed = at(theta)
    found = log_likelihood(proposed)
    accepted = ~done & (power * found > height)
    new = jnp.where(accepted[:, None], proposed, new)
    new_ll = jnp.where(accepted, found, new_ll)
    low = jnp.where(theta < 0, theta, low)
    high = jnp.where(theta < 0, high, theta)
    uniform = jax.random.uniform(jax.random.fold_in(key, i), (n,))
    theta = low + uniform * (high - low)
    return i + 1, theta, low, high, done | accepted, new, new_ll

  carry = jax.lax.while_loop(
      lambda carry: (carry[0] < _MOST_SHRINKS) & ~carry[4].all(),
      shrink,
      (0, theta, theta - 2 * jnp.pi, theta, jnp.zeros(n, bool), z, ll),
  )
  return carry[-2:]
