"""From a config to the objects it names: one file, one name, one class.

`dict(name='epinet', index_dim=10, base=dict(name='mlp', …))` becomes
`Epinet(index_dim=10, base=MLP(…))`: `name` is a file of the package (or of a
sub-package), the class is the one whose lower-case name is that of the file
without underscores, and the other entries are its fields. Adding an ENN, a
loss or a data set is adding one file. `'package.module:Class'` names a class
outside.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
import importlib
import pkgutil
from typing import Any

from flax import linen as nn
import ml_collections

from flax_enn.networks.frozen import Frozen

# Fields that Linen adds to every module.
_LINEN_FIELDS = {'parent', 'name'}


def build(
    config: Mapping[str, Any] | ml_collections.ConfigDict,
    package: str,
    path: str,
) -> Any:
  """Builds the object that a section of a config describes.

  Every nested section with a `name` is built first; a section whose entries
  all have one becomes a dict of objects. `frozen=True` wraps a network in
  `Frozen`.

  Args:
    config: section with a field `name`.
    package: where names are looked up, such as `'flax_enn.networks'`.
    path: of the section in the config, for errors: `'config.network'`.

  Returns:
    An instance of the class that `name` stands for.

  Raises:
    ValueError: a name or a field that does not exist, with those that do.
  """
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if not config or 'name' not in config:
    raise ValueError(
        f'{path} is {dict(config or {})}; it needs a field `name`, one of'
        f' {sorted(_files(package))}'
    )
  cls = find(config['name'], package, f'{path}.name')
  if not dataclasses.is_dataclass(cls):
    raise ValueError(
        f'{path}.name is {config["name"]!r}, which is neither a dataclass nor a'
        ' Linen module: it has no fields that a config could set'
    )
  fields = {
      key: _value(value, package, f'{path}.{key}')
      for key, value in config.items()
      if key not in ('name', 'frozen')
  }
  known = [
      f.name
      for f in dataclasses.fields(cls)
      if f.init and f.name not in _LINEN_FIELDS
  ]
  check_names(fields, known, path, cls.__name__)
  missing = [
      f.name
      for f in dataclasses.fields(cls)
      if f.name in known
      and f.name not in fields
      and f.default is dataclasses.MISSING
      and f.default_factory is dataclasses.MISSING
  ]
  if missing:
    raise ValueError(f'{path} ({cls.__name__}) lacks the fields {missing}')
  built = cls(**fields)
  if not config.get('frozen', False):
    return built
  if not isinstance(built, nn.Module):
    raise ValueError(
        f'{path}.frozen is set, but {cls.__name__} is no network; only networks'
        ' can be frozen'
    )
  return Frozen(net=built)


def find(name: str, package: str, path: str) -> type:
  """Looks up the class of a name.

  Args:
    name: of a file in `package`, or `'package.module:Class'`.
    package: where files are looked up.
    path: of the field that holds the name, for errors.
  """
  if ':' in name:
    module_name, class_name = name.split(':', 1)
    try:
      return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as e:
      raise ValueError(f'{path} is {name!r}; it cannot be loaded: {e}') from e
  files = _files(package)
  if name not in files:
    raise ValueError(f'{path} is {name!r}{_choices(name, sorted(files))}')
  module = importlib.import_module(files[name])
  for attribute, value in vars(module).items():
    if attribute.lower() == name.replace('_', '') and isinstance(value, type):
      return value
  raise ValueError(
      f'{path} is {name!r}, but {files[name]} has no class of that name'
  )


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
          f'{path}.{name} is not a field of {owner}{_choices(name, known)}'
      )


def _choices(name: str, known: list[str]) -> str:
  close = difflib.get_close_matches(name, known, n=1)
  hint = f'; did you mean {close[0]!r}?' if close else '.'
  return f'{hint} Known: {", ".join(known)}'


def _files(package: str) -> dict[str, str]:
  """Name of each file below a package -> its import path."""
  root = importlib.import_module(package)
  found = {}
  for info in pkgutil.iter_modules(root.__path__):
    full = f'{package}.{info.name}'
    found |= _files(full) if info.ispkg else {info.name: full}
  return found


def _value(value: Any, package: str, path: str) -> Any:
  """Builds what is nested; sequences become tuples, so that they hash."""
  if isinstance(value, (Mapping, ml_collections.ConfigDict)):
    if 'name' in value:
      return build(value, package, path)
    return {k: _value(v, package, f'{path}.{k}') for k, v in value.items()}
  if isinstance(value, (list, tuple)):
    return tuple(
        _value(v, package, f'{path}[{i}]') for i, v in enumerate(value)
    )
  return value
