"""Lists of config overrides, for `sweep()` in a config file.

  def sweep():
    return product({'seed': range(3), 'network.prior_scale': (0.5, 1.0, 2.0)})

An override is a dict, field -> value, with the fields as on the command line.
"""

from collections.abc import Iterable, Mapping, Sequence
import itertools
from typing import Any

import ml_collections

from flax_enn.build import check_names

Override = dict[str, Any]


def product(values: Mapping[str, Iterable[Any]]) -> list[Override]:
  """Every combination of the values of some fields."""
  rows = itertools.product(*values.values())
  return [dict(zip(values, row)) for row in rows]


def zipped(values: Mapping[str, Sequence[Any]]) -> list[Override]:
  """The first values of all fields, the second ones, and so on.

  Raises:
    ValueError: one field has more values than another.
  """
  sizes = {field: len(column) for field, column in values.items()}
  if len(set(sizes.values())) > 1:
    raise ValueError(f'zipped fields have unequal numbers of values: {sizes}')
  return [dict(zip(values, row)) for row in zip(*values.values())]


def name(override: Mapping[str, Any]) -> str:
  """`prior_scale=0.5,seed=1`: what differs, in the name of a folder.

  A field goes by its last part, or by all of them where two would be the same.
  """
  last = [field.rpartition('.')[2] for field in override]
  parts = []
  for field, short in zip(override, last):
    text = str(override[field]).replace('/', '-').replace(' ', '')
    parts.append(f'{field if last.count(short) > 1 else short}={text}')
  return ','.join(parts) or 'unchanged'


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
      check_names([part], known, path, 'this config')
      path, section = f'{path}.{part}', known[part]
    try:
      changed.update_from_flattened_dict({field: value})
    except (TypeError, ValueError) as e:
      raise ValueError(
          f'sweep() sets {path} to {value!r}, but its value is {section!r}, a'
          f' {type(section).__name__}: {e}'
      ) from e
  return changed
