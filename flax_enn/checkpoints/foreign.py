r"""Weights of other libraries, by a table of names.

  config.init = dict(
      file='../resnet20.npz',            # relative to this run's own workdir
      modules={'base': 'cifar_resnet'},  # module here -> table of names
      sha256='…',                        # of the file, if it is to be checked
  )

A file is `.npz` or `.safetensors`, arrays by name. A table is a name in
`name_tables.TABLES`, or rules, tried in order:

  (names, path, layout, scale, zero)

`names` is a regular expression for the whole of a name there, `path` the
variable here, as in `module.init`: `params/stem/kernel`. `\1` in it is what the
expression has captured, and `#` the place, from 0 on, of the captured numbers
among all that rules with a `#` capture: `layer1.0`, `layer1.1`, `layer2.0` are
blocks 0, 1 and 2. An empty path leaves an array out. The rest may be missing:
`layout` is that of the array there (`OIHW` or `OI`, as PyTorch has kernels),
`scale` and `zero` name the arrays that make it real numbers,
(array - zero) * scale.
"""

from collections.abc import Iterable, Mapping, Sequence
import hashlib
import io
import re
from typing import Any
import zipfile

from etils import epath
import jax
import numpy as np
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from flax_enn.build import choices
from flax_enn.checkpoints import layout as layouts
from flax_enn.checkpoints.name_tables import TABLES, Rule

# What is here HWIO, or IO.
_TRANSPOSED = {'': None, 'OIHW': (2, 3, 1, 0), 'OI': (1, 0)}


def read(path: epath.Path, sha256: str | None = None) -> dict[str, np.ndarray]:
  """Reads arrays by name.

  Raises:
    ValueError: the file is not there, is damaged or of another kind.
  """
  readers = {'.npz': _read_npz, '.safetensors': safetensors.load}
  if path.suffix not in readers:
    raise ValueError(f'file is {str(path)!r}; expected {" or ".join(readers)}')
  if not path.exists():
    raise ValueError(f'file is {str(path)!r}, which does not exist')
  content = path.read_bytes()
  found = hashlib.sha256(content).hexdigest()
  if sha256 and found != sha256:
    raise ValueError(f'{path} has the SHA-256 {found}, expected {sha256}')
  try:
    return dict(readers[path.suffix](content))
  except (ValueError, zipfile.BadZipFile, SafetensorError, EOFError) as e:
    raise ValueError(f'{path} cannot be read ({type(e).__name__}: {e})') from e


def _read_npz(content: bytes) -> dict[str, np.ndarray]:
  with np.load(io.BytesIO(content), allow_pickle=False) as file:
    return dict(file)


def rules_of(table: str | Iterable[Sequence[str]]) -> list[Rule]:
  """The rules of a table, by its name or as a config has them.

  Raises:
    ValueError: there is none of that name, or a rule is of another form.
  """
  if isinstance(table, str):
    if table not in TABLES:
      raise ValueError(
          f'there is no table of names {table!r}'
          f'{choices(table, sorted(TABLES))}'
      )
    return [*TABLES[table]]
  rules = []
  for fields in table:
    texts = not isinstance(fields, str) and all(
        isinstance(field, str) for field in fields
    )
    if not texts or not 2 <= len(fields) <= 5:
      raise ValueError(
          f'a rule is {fields!r}; expected (names, path, layout, scale, zero),'
          ' of which the last three may be missing'
      )
    rules.append(Rule(*fields))
    if rules[-1].layout not in _TRANSPOSED:
      raise ValueError(
          f'the layout of {fields!r} is not one of {sorted(_TRANSPOSED)}'
      )
    try:
      re.compile(rules[-1].names)
    except re.error as e:
      raise ValueError(f'{fields[0]!r} is no regular expression: {e}') from e
  return rules


def translate(
    arrays: Mapping[str, np.ndarray], rules: Sequence[Rule], where: epath.Path
) -> dict[str, np.ndarray]:
  """Path of each variable here -> its value.

  Args:
    arrays: by their names there.
    rules: the table.
    where: the file, for errors.

  Raises:
    ValueError: a name that no rule knows, two for one variable, or an array
      that has not as many axes as its layout.
  """
  matches = {name: _match(name, rules) for name in arrays}
  used = {
      expanded
      for rule, match in filter(None, matches.values())
      for expanded in (match.expand(rule.scale), match.expand(rule.zero))
  }
  numbers = {
      tuple(map(int, match.groups()))
      for rule, match in filter(None, matches.values())
      if '#' in rule.path
  }
  places = {number: str(i) for i, number in enumerate(sorted(numbers))}
  found: dict[str, np.ndarray] = {}
  unknown = []
  for name, array in arrays.items():
    if not (known := matches[name]):
      unknown += [] if name in used else [name]
      continue
    rule, match = known
    path = match.expand(rule.path)
    if '#' in path:
      path = path.replace('#', places[tuple(map(int, match.groups()))])
    if path in found:
      raise ValueError(f'{where}: two arrays are {path}, one of them {name!r}')
    if path:
      found[path] = _value(name, array, rule, match, arrays)
  if unknown:
    raise ValueError(
        f'{where}: no rule knows these names:{layouts.format_list(unknown)}\n'
        'add rules, with an empty path for what is to be left out'
    )
  return found


def _match(
    name: str, rules: Sequence[Rule]
) -> tuple[Rule, re.Match[str]] | None:
  for rule in rules:
    if match := re.fullmatch(rule.names, name):
      return rule, match
  return None


def _value(
    name: str,
    array: np.ndarray,
    rule: Rule,
    match: re.Match[str],
    arrays: Mapping[str, np.ndarray],
) -> np.ndarray:
  """An array as it is here."""
  if rule.scale or rule.zero:
    parts: dict[str, Any] = {}
    for field, text in (('scale', rule.scale), ('zero', rule.zero)):
      of = match.expand(text)
      if of and of not in arrays:
        raise ValueError(f'{name!r}: there is no {of!r}, its {field}')
      parts[field] = arrays[of] if of else np.float32(field == 'scale')
    array = array.astype(np.float32) - parts['zero']
    array = array * parts['scale']
  axes = _TRANSPOSED[rule.layout]
  if axes is None:
    return array
  if array.ndim != len(axes):
    raise ValueError(
        f'{name!r} has the shape {list(array.shape)}, expected {rule.layout}'
    )
  return array.transpose(axes)


def variables(
    init: Mapping[str, Any], workdir: epath.PathLike
) -> dict[str, dict[str, np.ndarray]]:
  """Module here -> the values of its variables, by path as in `module.init`.

  Raises:
    ValueError: what is wrong with `config.init` or its file.
  """
  path = layouts.absolute(init['file'], base=workdir)
  arrays = read(path, init.get('sha256'))
  return {
      module: translate(arrays, rules_of(table), path)
      for module, table in init['modules'].items()
  }


def check_fit(
    arrays: Mapping[str, np.ndarray], specs: Mapping[str, jax.ShapeDtypeStruct]
) -> None:
  """Raises a ValueError where arrays are not the variables of a module.

  Numbers of any kind become those of the variable.
  """
  theirs = {
      name: jax.ShapeDtypeStruct(
          array.shape, specs[name].dtype if name in specs else array.dtype
      )
      for name, array in arrays.items()
  }
  if wrong := layouts.differences(theirs, specs):
    raise ValueError(
        f'it does not fit this module:{layouts.format_list(wrong)}\n'
        'change the table of names, or the network'
    )


def place(value: np.ndarray, like: jax.Array) -> jax.Array:
  """The same array of every process, where another one lies."""
  value = np.asarray(value, like.dtype)
  return jax.make_array_from_callback(
      like.shape, like.sharding, lambda part: value[part]
  )
