"""The section `config.active_learning`, and what it may name.

  config.active_learning = dict(
      priorities=('bald', 'uniform'),  # each learns by itself
      start=20,      # labels to begin with, drawn at random
      per_round=10,  # labels that a round asks for
      rounds=6,
      seeds=3,       # repetitions: config.seed, and the numbers after it
  )

Priorities with fields are sections by a name of one's own, as objectives are:

  priorities=dict(
      careless=dict(name='ucb', factor=2.0, class_values=(0.0, 1.0)),
      informed=dict(name='information_gain', targets=16),
      uniform=dict(name='uniform'),
  )
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import inspect
from typing import Any, get_type_hints

import ml_collections

from flax_enn import annotations, build
from flax_enn.active_learning.acquisition import (
    Acquisition,
    ByPriority,
    DoubleThompson,
    InformationGain,
)
from flax_enn.active_learning.priorities import PRIORITIES

PATH = 'config.active_learning'
# Beside the functions of `PRIORITIES`: what needs more than log-probabilities.
ACQUISITIONS: dict[str, type] = {
    'double_thompson': DoubleThompson,
    'information_gain': InformationGain,
}
_DEFAULT = ('bald', 'uniform')
# What a priority gets from the batcher.
_GIVEN = {'labels', 'key', 'ids', 'log_weights'}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What is compared, and for how long.

  Attributes:
    priorities: how labels are asked for, by the name in the results.
    start: labels to begin with.
    per_round: labels that a round asks for.
    rounds: of asking.
    seeds: repetitions.
  """

  priorities: Mapping[str, Acquisition]
  start: int = 20
  per_round: int = 10
  rounds: int = 6
  seeds: int = 3

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict) -> 'Recipe':
    """Checks the section.

    Raises:
      ValueError: what was found, what was expected, and the field to change.
    """
    if config.active_learning is None:
      raise ValueError(
          f"{PATH} is None; set it to a section such as {{'priorities':"
          " ('bald', 'uniform'), 'start': 20, 'per_round': 10, 'rounds': 6}"
      )
    fields, hints = dict(config.active_learning), annotations.fields_of(cls)
    hints['priorities'] = Sequence[str] | annotations.SECTION
    build.check_names(fields, hints, PATH, 'active learning')
    for name, value in fields.items():
      annotations.checked(value, hints[name], f'{PATH}.{name}')
    chosen = fields.pop('priorities', _DEFAULT)
    if not chosen:
      raise ValueError(f'{PATH}.priorities is empty; name at least one')
    recipe = cls(_acquisitions(chosen), **fields)
    for name in ('start', 'per_round', 'rounds', 'seeds'):
      _check_count(getattr(recipe, name), f'{PATH}.{name}')
    return recipe


def sections(priorities: Any) -> dict[str, Any]:
  """Name -> section of each priority, of names alone too."""
  if isinstance(priorities, Mapping):
    return dict(priorities)
  return {name: {'name': name} for name in priorities}


def check_same(
    old: Mapping[str, Any], new: Mapping[str, Any], workdir: Any
) -> None:
  """Raises a ValueError where a name now stands for another priority.

  Args:
    old: `active_learning` of the config whose results are there.
    new: that of the config now.
    workdir: where they are, for the error.
  """
  found, now = (sections(of.get('priorities', _DEFAULT)) for of in (old, new))
  for name in sorted(found.keys() & now.keys()):
    if found[name] != now[name]:
      raise ValueError(
          f'{PATH}.priorities.{name} is {found[name]} in {workdir} and'
          f' {now[name]} here; give it another name, or use another --workdir'
      )


def _acquisitions(priorities: Any) -> dict[str, Acquisition]:
  """Builds what the section names."""
  path = f'{PATH}.priorities'
  if isinstance(priorities, ml_collections.ConfigDict):
    priorities = priorities.to_dict()
  if not isinstance(priorities, Mapping):
    return {name: _build({'name': name}, path, path) for name in priorities}
  for label, section in priorities.items():
    annotations.checked(section, annotations.SECTION, f'{path}.{label}')
  return {
      label: _build(section, f'{path}.{label}', f'{path}.{label}.name')
      for label, section in priorities.items()
  }


def _build(
    section: Mapping[str, Any], path: str, name_path: str
) -> Acquisition:
  """An acquisition of the name and fields of a section."""
  known = {**PRIORITIES, **ACQUISITIONS}
  name = section.get('name')
  if not isinstance(name, str) or name not in known:
    of = build.choices(str(name), sorted(known))
    raise ValueError(f'{name_path} has {name!r}{of}')
  made = known[name]
  hints = _fields(made)
  fields = {k: v for k, v in section.items() if k != 'name'}
  build.check_names(fields, hints, path, f'the priority {name}')
  for key, value in fields.items():
    annotations.checked(value, hints[key], f'{path}.{key}')
    if hints[key] is int:
      _check_count(value, f'{path}.{key}')
  with build.located(f'{path} ({name})'):
    if isinstance(made, type):
      return made(**fields)
    return ByPriority(functools.partial(made, **fields), name, fields)


def _fields(made: type | Callable[..., Any]) -> dict[str, Any]:
  """Name -> annotation of what a section may set."""
  if isinstance(made, type):
    return annotations.fields_of(made)
  hints, parameters = get_type_hints(made), inspect.signature(made).parameters
  return {
      name: hints[name]
      for name, parameter in parameters.items()
      if parameter.kind is parameter.KEYWORD_ONLY and name not in _GIVEN
  }


def _check_count(value: int, path: str) -> None:
  if value < 1:
    raise ValueError(f'{path} is {value}; set it to 1 or more')
