"""From a config to the objects it names: one file, one name, one class.

`dict(name='epinet', index_dim=10, base=dict(name='mlp', …))` becomes
`Epinet(index_dim=10, base=MLP(…))`: `name` is a file of the package (or of a
sub-package), the class is the one whose lower-case name is that of the file
without underscores, and the other entries are its fields. Adding an ENN, a
loss or a data set is adding one file. `'package.module:Class'` names a class
outside. Only this file and what calls it know paths of a config: an error that
an object raises gets the path of its section in front.
"""

from collections.abc import Generator, Iterable, Mapping
import contextlib
import dataclasses
import difflib
import importlib
import inspect
import os
from pathlib import Path
import sysconfig
import traceback
from typing import Any

from flax import linen as nn
import ml_collections

from flax_enn import annotations, kinds
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.with_prior import WithPrior

# Fields that Linen adds to every module.
_LINEN_FIELDS = {'parent', 'name'}


def build(
    config: Mapping[str, Any] | ml_collections.ConfigDict | None,
    kind: kinds.Kind,
    path: str,
    outputs: int | None = None,
) -> Any:
  """Builds the object that a section of a config describes.

  Every nested section with a `name` is built first; a section whose entries
  all have one becomes a dict of objects. In the section of a network,
  `frozen=True` wraps it in `Frozen`, and `priors` in `WithPrior`.

  Args:
    config: section with a field `name`.
    kind: what it must be.
    path: of the section in the config, for errors: `'config.network'`.
    outputs: the value of fields `classes` that the section leaves out.

  Returns:
    An instance of the class that `name` stands for.

  Raises:
    ValueError: a name or a field that does not exist, with those that do, or
      what the class itself refuses.
  """
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  config = {} if config is None else config
  if not isinstance(config, Mapping) or 'name' not in config:
    raise ValueError(
        f'{path} is {config!r}; it needs a field `name`, one of {kind.names()}'
    )
  cls = find(config['name'], kind, f'{path}.name')
  known = {
      f.name: f
      for f in dataclasses.fields(cls)
      if f.init and f.name not in _LINEN_FIELDS
  }
  wrappers = [w for w in _WRAPPERS if w in config and w not in known]
  fields = {
      key: _value(value, kind.package, f'{path}.{key}', outputs)
      for key, value in config.items()
      if key not in ('name', *wrappers)
  }
  check_names(fields, known, path, cls.__name__)
  if 'classes' in known and fields.get('classes') is None and outputs:
    fields['classes'] = outputs
  hints = annotations.fields_of(cls)
  for key, value in fields.items():
    fields[key] = annotations.checked(value, hints[key], f'{path}.{key}')
  annotations.check_dtype(fields.get('dtype'), f'{path}.dtype')
  missing = [
      name
      for name, field in known.items()
      if name not in fields
      and field.default is dataclasses.MISSING
      and field.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ValueError(f'{path} ({cls.__name__}) lacks the fields {missing}')
  with located(path):
    built = cls(**fields)
  annotations.checked(config.get('frozen', False), bool, f'{path}.frozen')
  for wrapper in wrappers:
    if not config[wrapper]:
      continue
    if not isinstance(built, nn.Module) or (
        wrapper == 'priors' and not kinds.NETWORK.accepts(cls)
    ):
      what = kinds.NETWORK.what if wrapper == 'priors' else 'a network'
      raise ValueError(
          f'{path}.{wrapper} is set, but {cls.__name__} is not {what}; only'
          f' these have `{wrapper}`'
      )
    value = _value(config[wrapper], kind.package, f'{path}.{wrapper}', outputs)
    built = _WRAPPERS[wrapper](built, value)
  return built


# Fields that any network's section may have.
_WRAPPERS = {
    'priors': WithPrior,
    'frozen': lambda network, _: Frozen(net=network),
}


@contextlib.contextmanager
def located(path: str) -> Generator[None]:
  """Puts the path of a section in front of a ValueError from inside."""
  try:
    yield
  except ValueError as e:
    raise ValueError(f'{path}: {e}') from e


@contextlib.contextmanager
def code_named(module: Any) -> Generator[None]:
  """Adds to a ValueError from inside where a user's own code is.

  That is the innermost line of it that was running, or else the file of the
  module's class. Nothing is added where all code is of a library.
  """
  try:
    yield
  except ValueError as e:
    error, places = e, []
    while error is not None:
      for frame in traceback.extract_tb(error.__traceback__):
        if _is_own(frame.filename):
          places.append(f'{frame.filename}, line {frame.lineno}')
      error = error.__cause__
    file = inspect.getsourcefile(type(module)) or ''
    if not places and _is_own(file):
      places.append(file)
    if not places:
      raise
    raise ValueError(f'{e} (See {places[-1]}.)') from e


def _is_own(file: str) -> bool:
  """Whether it is a file of neither a library, nor Python, nor flax_enn."""
  others = (str(Path(__file__).parent), sysconfig.get_path('stdlib'))
  packages = Path(file).parts
  installed = {'site-packages', 'dist-packages'} & {*packages}
  return os.path.isfile(file) and not installed and not file.startswith(others)


def find(name: str, kind: kinds.Kind, path: str) -> type:
  """Looks up the class of a name.

  Args:
    name: of a file in the package of `kind`, or `'package.module:Class'`.
    kind: what it must be.
    path: of the field that holds the name, for errors.
  """
  if ':' in annotations.checked(name, str, path):
    module_name, class_name = name.split(':', 1)
    try:
      found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as e:
      raise ValueError(f'{path} is {name!r}; it cannot be loaded: {e}') from e
  else:
    modules = kinds.modules(kind.package)
    if name not in modules:
      raise ValueError(f'{path} is {name!r}{choices(name, kind.names())}')
    found = kinds.class_of(name, modules[name])
  if not isinstance(found, type) or not dataclasses.is_dataclass(found):
    raise ValueError(
        f'{path} is {name!r}, which is neither a dataclass nor a Linen module:'
        ' it has no fields that a config could set'
    )
  if not kind.accepts(found):
    raise ValueError(
        f'{path} is {name!r}, which is not {kind.what}. Known:'
        f' {", ".join(kind.names())}'
    )
  return found


def describe(value: Any) -> Any:
  """The inverse of `build`, of JSON types: for objects of plain fields."""
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    cls = type(value)
    fields = {
        f.name: describe(getattr(value, f.name))
        for f in dataclasses.fields(value)
    }
    return {'name': f'{cls.__module__}:{cls.__qualname__}', **fields}
  if isinstance(value, (list, tuple)):
    return [describe(v) for v in value]
  if isinstance(value, dict):
    return {k: describe(v) for k, v in value.items()}
  return value


def check_names(
    found: Iterable[str], known: Iterable[str], path: str, owner: str
) -> None:
  """Raises a ValueError where a config has a field that nothing reads.

  Args:
    found: names of the fields in the section.
    known: names of the fields there are.
    path: of the section, such as `'config.network'`.
    owner: what reads the section, for the error.
  """
  known = sorted(known)
  for name in found:
    if name not in known:
      raise ValueError(
          f'{path}.{name} is not a field of {owner}{choices(name, known)}'
      )


def choices(name: str, known: list[str]) -> str:
  """The end of an error: the closest of the known names, and all of them."""
  close = difflib.get_close_matches(name, known, n=1)
  hint = f'; did you mean {close[0]!r}?' if close else '.'
  return f'{hint} Known: {", ".join(known)}'


def _value(value: Any, package: str, path: str, outputs: int | None) -> Any:
  """Builds what is nested; sequences become tuples, so that they hash."""
  if isinstance(value, (Mapping, ml_collections.ConfigDict)):
    if 'name' in value:
      part = kinds.Kind('a part of it', package, lambda cls: True)
      return build(value, part, path, outputs)
    return {
        k: _value(v, package, f'{path}.{k}', outputs) for k, v in value.items()
    }
  if isinstance(value, (list, tuple)):
    return tuple(
        _value(v, package, f'{path}[{i}]', outputs) for i, v in enumerate(value)
    )
  return value
