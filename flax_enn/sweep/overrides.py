"""Overrides: what differs between the runs of a sweep."""

import ast
import collections
from collections.abc import Iterable, Mapping, Sequence
import hashlib
import itertools
import re
from typing import Any

import jax
import ml_collections

from flax_enn import annotations, build

Override = dict[str, Any]


def product(values: Mapping[str, Iterable[Any]]) -> list[Override]:
  """Every combination of the values of some fields."""
  rows = itertools.product(*values.values())
  return [normalized(dict(zip(values, row))) for row in rows]


def zip_(values: Mapping[str, Sequence[Any]]) -> list[Override]:
  """The first values of all fields, the second ones, and so on.

  Raises:
    ValueError: one field has more values than another.
  """
  sizes = {field: len(column) for field, column in values.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f'zip_ of fields with unequal numbers of values: {sizes}')
  rows = zip(*values.values())
  return [normalized(dict(zip(values, row))) for row in rows]


def normalized(override: Mapping[str, Any]) -> Override:
  """The same with numbers of Python, as a config holds, not of np.arange."""
  return {f: jax.tree.map(annotations.plain, v) for f, v in override.items()}


def name(override: Mapping[str, Any], fields: Iterable[str] = ()) -> str:
  """`prior_scale=0.5,seed=1`: what differs, as the name of a folder.

  A field goes by its last part, or by all of them where two would be the same.
  No two overrides have one name: where it would be longer than a file system's
  255 bytes, or not say the exact values ('a b' and 'a/b' are both `a-b` there),
  a digest of them ends it.

  Args:
    override: field -> value.
    fields: of all overrides of the sweep.
  """
  override = normalized(override)
  last = collections.Counter(f.rpartition('.')[2] for f in {*fields, *override})
  parts, exact = [], True
  for field, value in override.items():
    short = field.rpartition('.')[2]
    text = value if isinstance(value, str) else str(value).replace(' ', '')
    parts.append(f'{field if last[short] > 1 else short}={text}')
    exact &= repr(_read(text)) == repr(value)
  wanted = ','.join(parts) or 'unchanged'
  found = re.sub(r'[^\w.:+=,(){}\[\]\'"-]', '-', wanted, flags=re.ASCII)
  if exact and found == wanted and len(found) <= 255:
    return found
  digest = hashlib.sha256(repr([*override.items()]).encode()).hexdigest()
  return f'{found[:242]},{digest[:12]}'


def _read(text: str) -> Any:
  """The value that a text in a name stands for; None where that is unclear."""
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text if re.fullmatch(r'[\w.:+-]*', text, re.ASCII) else None


def apply(
    config: ml_collections.ConfigDict, override: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  """A copy of a config with other values.

  Raises:
    ValueError: a field that the config does not have, or a value of another
      type.
  """
  changed = config.copy_and_resolve_references()
  for field, value in override.items():
    path, section = 'config', changed
    for part in field.split('.'):
      known = section if isinstance(section, ml_collections.ConfigDict) else {}
      build.check_names([part], known, path, 'this config')
      path, section = f'{path}.{part}', known[part]
    try:
      changed.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as e:
      raise ValueError(
          f'sweep() sets {path} to {value!r}, but its value is {section!r}, a'
          f' {type(section).__name__}: {e}'
      ) from e
  return changed
