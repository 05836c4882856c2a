"""Functions of a library, called by their own names from a config.

The library's signatures say which fields there are and of which kind they are,
so that all of its functions can be used and none is listed here.
"""

from collections.abc import Callable, Mapping
import contextlib
import inspect
import math
import numbers
from typing import Any, get_args

import ml_collections

from flax_enn import annotations, build


def functions(
    module: Any, chosen: Callable[[inspect.Signature], bool]
) -> dict[str, Callable[..., Any]]:
  """The public functions of a module whose signature is chosen, by name."""
  found = {}
  for name, value in vars(module).items():
    if callable(value) and not inspect.isclass(value) and name[0] != '_':
      with contextlib.suppress(TypeError, ValueError):  # not Python's own
        if chosen(inspect.signature(value)):
          found[name] = value
  return found


def choose(known: Mapping[str, Any], name: Any, path: str) -> Any:
  """`known[name]`, or a ValueError that says which names there are."""
  if not isinstance(name, str) or name not in known:
    found = build.choices(str(name), sorted(known))
    raise ValueError(f'{path} is {name!r}{found}')
  return known[name]


def call(
    function: Callable[..., Any],
    fields: Mapping[str, Any],
    path: str,
    build_part: Callable[[Mapping[str, Any], str], Any],
    **ours: Any,
) -> Any:
  """Calls a function of a library with fields of a config, checked against it.

  Args:
    function: of the library.
    fields: arguments from the config.
    path: of the section that they are in.
    build_part: builds an argument that is a section itself, from its path.
    **ours: arguments that the config does not set.
  """
  name = getattr(function, '__name__', 'this')
  parameters = inspect.signature(function).parameters
  own = {k: p for k, p in parameters.items() if k not in ours}
  build.check_names(fields, own, path, f'the function {name}')
  required = [k for k, p in own.items() if p.default is p.empty]
  if missing := sorted(set(required) - set(fields)):
    raise ValueError(f'{path} ({name}) lacks the fields {missing}')
  arguments = {
      k: _argument(v, own[k], f'{path}.{k}', build_part)
      for k, v in fields.items()
  }
  with build.located(f'{path} ({name})'):
    return tried(lambda: function(**arguments, **ours))


def _argument(
    value: Any, parameter: inspect.Parameter, path: str, build_part: Any
) -> Any:
  """A value of the kind that the signature says; sections in it are built."""
  allowed, default = allowed_types(parameter), parameter.default
  if isinstance(value, Mapping) and 'name' in value:
    return build_part(value, path)
  if isinstance(value, Mapping):
    # Steps, which are text once a config has been through JSON.
    return {int(k) if str(k).isdecimal() else k: v for k, v in value.items()}
  if isinstance(value, tuple):
    entry = parameter.replace(annotation=Any, default=None)
    return tuple(
        _argument(v, entry, f'{path}[{i}]', build_part)
        for i, v in enumerate(value)
    )
  if value is None and (default is None or type(None) in allowed):
    return value
  if float in allowed or type(default) is float:
    check_number(value, path)
  elif bool in allowed or type(default) is bool:
    if not isinstance(value, bool):
      raise ValueError(f'{path} is {value!r}; expected True or False')
  elif (int in allowed or type(default) is int) and not is_integer(value):
    raise ValueError(f'{path} is {value!r}; expected an integer')
  return value


def tried(make: Callable[[], Any]) -> Any:
  """What `make` returns; whatever it raises becomes a ValueError."""
  try:
    return make()
  except Exception as e:  # each function has its own
    raise ValueError(f'it cannot be used: {e}') from e


def allowed_types(parameter: inspect.Parameter) -> tuple[Any, ...]:
  """The types that its annotation allows."""
  return get_args(parameter.annotation) or (parameter.annotation,)


def is_integer(value: object) -> bool:
  """Whether it is a whole number, Python's or numpy's, and not a bool."""
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(
    value: Any, path: str, least: float = -math.inf, below: float = math.inf
) -> None:
  """Raises a ValueError if it is not a number, `least <= value < below`."""
  number = isinstance(value, numbers.Real) and not isinstance(value, bool)
  if not number or not least <= float(value) < below or value == -math.inf:
    at_least = '' if least == -math.inf else f' of at least {least:g}'
    less = '' if below == math.inf else f' and less than {below:g}'
    raise ValueError(
        f'{path} is {value!r}; expected a finite number{at_least}{less}'
    )


def plain_tree(value: Any) -> Any:
  """A value of a config in Python's own types: dicts, tuples and numbers."""
  if isinstance(value, (Mapping, ml_collections.ConfigDict)):
    return {k: plain_tree(v) for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(plain_tree(v) for v in value)
  return annotations.plain(value)
