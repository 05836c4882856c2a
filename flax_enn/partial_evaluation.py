"""Cuts a function of one epistemic index where the index comes in.

What a function computes whatever the index can so be computed before, and kept.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core


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


def hoist(fn: Callable[[Any], Any], index: Any) -> Callable[[Any], Any]:
  """Computes now what `fn` computes whatever the index; returns the rest of it.

  XLA cannot be relied on for this: it moves convolutions out of a loop on CPUs
  and leaves them in it on GPUs. What is inside a `jax.jit` or another loop of
  `fn` is hoisted as one, or stays (loop-invariant code motion).

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
