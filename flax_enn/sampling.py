"""Mapping a function of one epistemic index over many.

`over_index` is the only vmap over the index in the library. What does not
depend on the index (a base network, a prior's basis) stays unbatched under
vmap and runs once for any number of indices.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.extend import core

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
  if chunk < 1:
    raise ValueError(f'chunk is {chunk}; it must be at least 1')
  n = len(jax.tree.leaves(indices)[0])
  fn = _hoist(fn, jax.tree.map(lambda leaf: leaf[0], indices))
  full = n - n % chunk
  carry = init
  if full:
    chunks = jax.tree.map(
        lambda leaf: leaf[:full].reshape(-1, chunk, *leaf.shape[1:]), indices
    )
    carry, _ = jax.lax.scan(
        lambda c, z: (reduce(c, over_index(fn, z)), None), carry, chunks
    )
  if n > full:
    rest = jax.tree.map(lambda leaf: leaf[full:], indices)
    carry = reduce(carry, over_index(fn, rest))
  return carry


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
  dependent, once, rest = set(jaxpr.invars), [], []
  for equation in jaxpr.eqns:
    inputs = _variables(equation.invars)
    if equation.effects or not dependent.isdisjoint(inputs):
      dependent.update(equation.outvars)
      rest.append(equation)
    else:
      once.append(equation)
  used = [v for e in rest for v in _variables(e.invars)]
  used += _variables(jaxpr.outvars)
  shared = [v for v in dict.fromkeys(used) if v not in dependent]
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


def _variables(atoms: Any) -> list[Any]:
  return [atom for atom in atoms if not isinstance(atom, core.Literal)]
