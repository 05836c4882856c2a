"""Values of a config against the types that they must have."""

import collections.abc
from collections.abc import Mapping, Sequence
import dataclasses
import math
import numbers
import types
import typing
from typing import Any

import jax.numpy as jnp
import ml_collections

# The words for a type, in errors.
_WORDS = {
    bool: 'True or False',
    int: 'an integer',
    float: 'a finite number',
    str: 'text',
    type(None): 'None',
}
_SEQUENCES = (tuple, list, collections.abc.Sequence)
_MAPPINGS = (dict, collections.abc.Mapping)

# Of a config: entries by name.
SECTION = Mapping[str, Any]


def fields_of(cls: type) -> dict[str, Any]:
  """The annotation of each field of a dataclass; Any where none can be had."""
  try:
    hints = typing.get_type_hints(cls)
  except (NameError, AttributeError):  # a name for type checkers alone
    hints = {}
  return {f.name: hints.get(f.name, Any) for f in dataclasses.fields(cls)}


def checked(value: Any, annotation: Any, path: str) -> Any:
  """The value, with numbers of numpy as Python's own.

  Args:
    value: of a config.
    annotation: what it must be; what is neither a plain type, nor a sequence, a
      mapping or a union of such, is not looked at.
    path: of the field, for errors.

  Raises:
    ValueError: it has another type, or is a number that is not finite.
  """
  value = plain(value)
  if not _fits(value, annotation):
    raise ValueError(f'{path} is {value!r}; expected {describe(annotation)}')
  return value


def normalized(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """A copy of a config whose numbers are Python's own."""
  copy = config.copy_and_resolve_references()

  def visit(section: ml_collections.ConfigDict) -> None:
    with section.ignore_type(), section.unlocked():
      for key, value in section.items():
        if isinstance(value, ml_collections.ConfigDict):
          visit(value)
        elif hasattr(value, 'tolist'):
          section[key] = plain(value)

  visit(copy)
  return copy


def plain(value: Any) -> Any:
  """Numbers and arrays of numpy and JAX as Python's own, all else as it is."""
  if not hasattr(value, 'tolist'):
    return value
  found = value.tolist()
  return tuple(found) if value.ndim == 1 else found


def check_dtype(dtype: Any, path: str) -> None:
  """Raises a ValueError where a `dtype` is none of floating-point numbers."""
  if dtype is None:
    return
  try:
    known = jnp.issubdtype(jnp.dtype(dtype), jnp.floating)
  except TypeError:
    known = False
  if not known:
    raise ValueError(
        f"{path} is {dtype!r}; expected None, 'float32', 'bfloat16', 'float16'"
        " or 'float64'"
    )


def describe(annotation: Any) -> str:
  """A type in words: 'an integer or None'."""
  if annotation in _WORDS:
    return _WORDS[annotation]
  if annotation is Any:
    return 'anything'
  if _is_union(annotation):
    return ' or '.join(map(describe, typing.get_args(annotation)))
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if (origin or annotation) in _SEQUENCES:
    each = [a for a in args if a is not ...]
    if not each:
      return 'a list'
    if origin is tuple and ... not in args:
      return f'({", ".join(map(describe, each))})'
    return f'a list, of which each is {describe(each[0])}'
  if (origin or annotation) in _MAPPINGS:
    return 'a section of named entries'
  return 'a section with a `name`'


def _is_union(annotation: Any) -> bool:
  return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _fits(value: Any, annotation: Any) -> bool:
  if _is_union(annotation):
    return any(_fits(value, a) for a in typing.get_args(annotation))
  if annotation is type(None):
    return value is None
  if annotation is bool:
    return isinstance(value, bool)
  if annotation is int:
    return isinstance(value, int) and not isinstance(value, bool)
  if annotation is float:
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return number and math.isfinite(value)
  if annotation is str:
    return isinstance(value, str)
  origin, args = typing.get_origin(annotation), typing.get_args(annotation)
  if (origin or annotation) in _SEQUENCES:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
      return False
    values = [plain(v) for v in value]
    if origin is tuple and args and ... not in args:
      return len(values) == len(args) and all(map(_fits, values, args))
    return not args or all(_fits(v, args[0]) for v in values)
  if (origin or annotation) in _MAPPINGS:
    return isinstance(value, (Mapping, ml_collections.ConfigDict))
  # A class of ours is built from a section; Any may be anything.
  scalar = isinstance(value, (bool, int, float, str, tuple, type(None)))
  return not (scalar and isinstance(annotation, type) and annotation is not Any)
