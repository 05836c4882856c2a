"""Mapping a function of one epistemic index over many.

`over_index` is the only vmap over the index in the library. What does not
depend on the index (a base network, a prior's basis) stays unbatched under
vmap and runs once for any number of indices.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend import core
import jax.numpy as jnp

from flax_enn import sharding

Carry = TypeVar('Carry')


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
  mapped = jax.vmap(fn, out_axes=out_axes, spmd_axis_name=sharding.INDEX_AXIS)
  return mapped(sharding.constrain_index(indices))


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
  fn = _hoist(fn, jax.tree.map(lambda leaf: leaf[0], indices))
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


def split_at_index(
    fn: Callable[[Any, Any], Any], x: Any, index: Any
) -> tuple[Callable[[Any], list[Any]], Callable[[list[Any], Any], Any]]:
  """Cuts `fn(x, index)` where the index comes in.

  With the two functions that it returns, `head(features(x), index)` is
  `fn(x, index)`; features of the same x are computed once, and kept.

  Args:
    fn: function of inputs and one index.
    x: inputs, for their shapes.
    index: one index, for its shape.

  Returns:
    `features(x)`, a list of all that depends on x and not on the index, and
    `head(features, index)`.
  """
  closed, result = jax.make_jaxpr(fn, return_shape=True)(x, index)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(result)
  inputs = jaxpr.invars[: len(jax.tree.leaves(x))]
  of_index, on_index = _dependents(jaxpr.eqns, jaxpr.invars[len(inputs) :])
  of_x, on_x = _dependents(jaxpr.eqns, inputs)
  before = [e for e, depends in zip(jaxpr.eqns, on_index) if not depends]
  # What depends on neither is cheap and needed by both: casts, iotas.
  after = [e for e, z, x in zip(jaxpr.eqns, on_index, on_x) if z or not x]
  shared = [
      v for v in _used(after, jaxpr.outvars) if v in of_x and v not in of_index
  ]
  names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
  first = jaxpr.replace(
      invars=inputs, outvars=shared, eqns=before, debug_info=names
  )
  second = jaxpr.replace(
      invars=[*shared, *jaxpr.invars[len(inputs) :]],
      eqns=after,
      debug_info=names,
  )
  run_first, run_second = (
      core.jaxpr_as_fun(core.ClosedJaxpr(part, closed.consts))
      for part in (first, second)
  )

  def head(features: list[Any], index: Any) -> Any:
    found = run_second(*features, *jax.tree.leaves(index))
    return jax.tree.unflatten(treedef, found)

  return lambda x: run_first(*jax.tree.leaves(x)), head


def _hoist(fn: Callable[[Any], Any], index: Any) -> Callable[[Any], Any]:
  """Computes now what `fn` computes whatever the index; returns the rest of it.

  XLA cannot be relied on for this: it moves convolutions out of a loop on CPUs
  and leaves them in it on GPUs. What is inside a `jax.jit` or another loop of
  `fn` is hoisted whole or not at all.

  Args:
    fn: function of one index.
    index: one index, for its shapes.
  """
  closed, result = jax.make_jaxpr(fn, return_shape=True)(index)
  jaxpr, treedef = closed.jaxpr, jax.tree.structure(result)
  of_index, on_index = _dependents(jaxpr.eqns, jaxpr.invars)
  rest = [e for e, depends in zip(jaxpr.eqns, on_index) if depends]
  once = [e for e, depends in zip(jaxpr.eqns, on_index) if not depends]
  shared = [v for v in _used(rest, jaxpr.outvars) if v not in of_index]
  names = jaxpr.debug_info._replace(arg_names=None, result_paths=None)
  before = jaxpr.replace(
      invars=[], outvars=shared, eqns=once, debug_info=names
  )
  values = core.jaxpr_as_fun(core.ClosedJaxpr(before, closed.consts))()
  after = core.jaxpr_as_fun(
      core.ClosedJaxpr(jaxpr.replace(constvars=shared, eqns=rest), values)
  )
  return lambda index: jax.tree.unflatten(
      treedef, after(*jax.tree.leaves(index))
  )


def _dependents(equations: Any, seeds: Any) -> tuple[set[Any], list[bool]]:
  """The variables that depend on `seeds`, and which equations do."""
  found, which = set(seeds), []
  for equation in equations:
    inputs = _variables(equation.invars)
    depends = bool(equation.effects) or not found.isdisjoint(inputs)
    which.append(depends)
    if depends:
      found.update(equation.outvars)
  return found, which


def _used(equations: Any, outvars: Any) -> list[Any]:
  """The variables that equations and results read, each once."""
  used = [v for e in equations for v in _variables(e.invars)]
  return list(dict.fromkeys([*used, *_variables(outvars)]))


def _variables(atoms: Any) -> list[Any]:
  return [atom for atom in atoms if not isinstance(atom, core.Literal)]
