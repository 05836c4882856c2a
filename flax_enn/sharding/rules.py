"""Rules: which logical names of array axes lie on which axes of the mesh."""

from collections.abc import Generator, Mapping, Sequence
import contextlib
import contextvars
import functools
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh, PartitionSpec

from flax_enn import annotations
from flax_enn.sharding.mesh import AXES, DATA_AXIS, FSDP_AXIS, INDEX_AXIS

# Module attribute under which a trained ensemble keeps its members: every
# variable below it has a leading axis K, boxed or not.
MEMBER = 'member'

Rules = Mapping[str, tuple[str, ...]]

DEFAULT_RULES: Rules = {
    'batch': (DATA_AXIS, FSDP_AXIS),
    'base_batch': (DATA_AXIS, FSDP_AXIS, INDEX_AXIS),
    'index': (INDEX_AXIS,),
    MEMBER: (INDEX_AXIS,),
    'wide': (FSDP_AXIS,),
}

_rules = contextvars.ContextVar('sharding rules', default=DEFAULT_RULES)


def create_rules(table: Mapping[str, str | Sequence[str] | None]) -> Rules:
  """Reads `config.sharding`: logical name -> axis of the mesh, axes, or None.

  Raises a ValueError for an axis that no mesh has, or a name that is missing.
  """
  rules = {}
  for name, axes in table.items():
    annotations.checked(axes, str | Sequence[str] | None, repr(name))
    rules[name] = (axes,) if isinstance(axes, str) else tuple(axes or ())
    if unknown := sorted(set(rules[name]) - set(AXES)):
      raise ValueError(
          f'{name!r} names the mesh axes {unknown}; the axes are {AXES}'
      )
  if missing := sorted(set(DEFAULT_RULES) - set(rules)):
    raise ValueError(f'it has no rule for {missing}; see flax_enn/sharding')
  if rules['index'] != (INDEX_AXIS,) or INDEX_AXIS in rules['batch']:
    raise ValueError(f'{INDEX_AXIS!r} must be that of index, and not of batch')
  return rules


@contextlib.contextmanager
def use_mesh(mesh: Mesh, rules: Rules = DEFAULT_RULES) -> Generator[None]:
  """Runs what is inside on a mesh, with these rules."""
  token = _rules.set(rules)
  try:
    with jax.set_mesh(mesh):
      yield
  finally:
    _rules.reset(token)


def spec(*names: str | None, rules: Rules | None = None) -> PartitionSpec:
  """The partition of an array whose axes have these logical names."""
  rules = _rules.get() if rules is None else rules
  for name in names:
    if name and name not in rules:
      _say_replicated(name)
  return PartitionSpec(*(rules.get(name or '') or None for name in names))


@functools.cache
def _say_replicated(name: str) -> None:
  """Says once that an axis lies nowhere."""
  logging.warning(
      'The axis %r is in no rule and is replicated; config.sharding.%s says'
      ' where it lies, None that this is meant', name, name,
  )  # fmt: skip


def constrain(x: Any, *names: str | None) -> Any:
  """Asks the compiler to lay the leading axes of every leaf of `x` out so.

  Does nothing outside `use_mesh`. Under `over_index`, a value that depends
  on the index must not name the index axis: use `batch` there, and `base_batch`
  for index-free work only.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  where = spec(*names)
  return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, where), x)


def constrain_index(indices: Any) -> Any:
  """Asks the compiler to split work over indices along the index axis.

  Args:
    indices: pytree of `[N, ...]`; its other axes are left to the compiler.
      Where the index axis does not divide N, every device does all of them.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return indices

  def split(leaf):
    if leaf.shape[0] % mesh.shape[INDEX_AXIS]:
      return leaf
    free = [PartitionSpec.UNCONSTRAINED] * (leaf.ndim - 1)
    return jax.lax.with_sharding_constraint(
        leaf, PartitionSpec(*spec('index'), *free)
    )

  return jax.tree.map(split, indices)
