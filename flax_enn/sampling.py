"""Mapping a function of one epistemic index over many.

`over_index` is the only vmap over the index in the library. What does not
depend on the index (a base network, a prior's basis) stays unbatched under
vmap and runs once for any number of indices.
"""

from collections.abc import Callable
import contextvars
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.partial_evaluation import hoist

Carry = TypeVar('Carry')
T = TypeVar('T')

# What `over_index` maps just now.
_mapped = contextvars.ContextVar[Any]('the index', default=None)


def over_index(
    fn: Callable[[Any], Any], indices: Any, *, out_axes: Any = 0
) -> Any:
  """Maps `fn` over `[N, ...]` indices, sharded over the index axis of the mesh.

  Args:
    fn: function of one index.
    indices: `[N, ...]` indices, from `Indexer.sample`, or a pytree of them and
      of what goes with each.
    out_axes: as in `jax.vmap`. An entry None asks for a result that does not
      depend on the index, and makes JAX raise where it does: batch statistics
      are returned this way.

  Returns:
    What `fn` returns, with an axis N in front of (or where `out_axes` says).
  """

  def at(index: Any) -> Any:
    token = _mapped.set(index)
    try:
      return fn(index)
    finally:
      _mapped.reset(token)

  mapped = jax.vmap(at, out_axes=out_axes, spmd_axis_name=sharding.INDEX_AXIS)
  return mapped(sharding.constrain_index(indices))


def index_free(fn: Callable[..., T], *args: Any) -> T:
  """`fn(*args)`, traced outside of `over_index` where that maps it.

  For what vmap over a mesh axis cannot be asked for, such as a `shard_map`
  over that axis. Its gradient is that of `fn`.

  Args:
    fn: function of arrays.
    *args: pytrees of them; none may depend on the index.

  Raises:
    ValueError: one of them does.
  """
  index = _mapped.get()
  if index is None:
    return fn(*args)

  @jax.custom_batching.custom_vmap
  def call(index: Any, args: Any) -> Any:
    del index  # only says that this is mapped
    return fn(*args)

  @call.def_vmap
  def once(size: int, mapped: Any, index: Any, args: Any) -> Any:
    del size, index
    if any(jax.tree.leaves(mapped[1])):
      raise ValueError(f'{fn} is index-free, but an argument depends on z')
    found = fn(*args)
    return found, jax.tree.map(lambda _: False, found)

  return call(index, args)


def map_over_index(
    fn: Callable[[Any], Any], indices: Any, *, chunk: int
) -> Any:
  """What `over_index` returns; only `chunk` indices are computed at once.

  For results that are small beside what it takes to compute them, such as one
  log-likelihood of each index.

  Args:
    fn: function of one index.
    indices: `[N, ...]` indices, or a pytree of them and of what goes with each.
    chunk: number of indices that are mapped over at once.

  Returns:
    What `fn` returns, with an axis N in front.
  """
  _, results = _scan(fn, indices, chunk, None, lambda _, found: (None, found))
  return jax.tree.map(lambda *parts: jnp.concatenate(parts), *results)


def reduce_over_index(
    fn: Callable[[Any], Any],
    indices: Any,
    *,
    init: Carry,
    reduce: Callable[[Carry, Any], Carry],
    chunk: int,
) -> Carry:
  """Folds `fn` over `[N, ...]` indices; only `chunk` results exist at once.

  For evaluation and inference. What does not depend on the index runs once,
  before the loop over chunks. (Training maps all its indices at once: chunks of
  a gradient would repeat the base's backward pass.)

  Args:
    fn: function of one index.
    indices: `[N, ...]` indices, or a pytree of them and of what goes with each,
      such as their log-weights.
    init: the carry before any index.
    reduce: `(carry, results) -> carry`, where the results have a leading axis
      of `chunk` indices (the last N mod chunk indices come in one smaller
      call).
    chunk: number of indices that are mapped over at once.

  Returns:
    The carry after all indices.
  """
  carry, _ = _scan(
      fn, indices, chunk, init, lambda carry, found: (reduce(carry, found), ())
  )
  return carry


def _scan(
    fn: Callable[[Any], Any],
    indices: Any,
    chunk: int,
    carry: Any,
    step: Callable[[Any, Any], tuple[Any, Any]],
) -> tuple[Any, list[Any]]:
  """Scans chunks of indices; the last carry, and what was kept `[n, ...]`."""
  if chunk < 1:
    raise ValueError(f'chunk is {chunk}; it must be at least 1')
  n = len(jax.tree.leaves(indices)[0])
  fn = hoist(fn, jax.tree.map(lambda leaf: leaf[0], indices))
  full = n - n % chunk
  kept = []
  if full:
    chunks = jax.tree.map(
        lambda leaf: leaf[:full].reshape(-1, chunk, *leaf.shape[1:]), indices
    )
    carry, found = jax.lax.scan(
        lambda c, z: step(c, over_index(fn, z)), carry, chunks
    )
    kept.append(
        jax.tree.map(lambda leaf: leaf.reshape(full, *leaf.shape[2:]), found)
    )
  if n > full:
    rest = jax.tree.map(lambda leaf: leaf[full:], indices)
    carry, found = step(carry, over_index(fn, rest))
    kept.append(found)
  return carry, kept
