"""What training minimises, from `config.objectives`."""

import dataclasses
import math
from typing import Any
import zlib

import ml_collections

from flax_enn import annotations, build, kinds
from flax_enn.losses import Objective
from flax_enn.optimizer import schedule_from


def create_objectives(
    config: ml_collections.ConfigDict,
) -> dict[str, Objective]:
  """Builds the named objectives of a config; noise is seeded from the run."""
  return {name: _objective(config, name) for name in config.objectives}


def _objective(config: ml_collections.ConfigDict, name: str) -> Objective:
  path = f'config.objectives.{name}'
  section = config.objectives[name]
  annotations.checked(section, annotations.SECTION, path)
  fields = [f.name for f in dataclasses.fields(Objective)]
  build.check_names(section, fields, path, 'an objective')
  if 'loss' not in section:
    raise ValueError(
        f"{path} has no loss; add for example loss=dict(name='xent')"
    )
  weight = section.get('weight', 1.0)
  if isinstance(weight, ml_collections.ConfigDict):
    weight = schedule_from(weight.to_dict(), f'{path}.weight')
  elif not isinstance(weight, (int, float)) or not math.isfinite(weight):
    raise ValueError(
        f'{path}.weight is {weight!r}; expected a finite number, or a schedule'
    )

  def built(field: str, kind: kinds.Kind) -> Any:
    value = section.get(field)
    if value is None:
      return None
    if field != 'indices' or 'name' in value:
      return build.build(value, kind, f'{path}.{field}')
    return {
        key: build.build(v, kind, f'{path}.{field}.{key}') if v else None
        for key, v in value.items()
    }

  fields = {
      'loss': built('loss', kinds.LOSS),
      'inputs': built('inputs', kinds.INPUTS),
      'indices': built('indices', kinds.INDICES),
  }
  noise = []
  named = annotations.checked(
      section.get('noise'), annotations.SECTION | None, f'{path}.noise'
  )
  for key, value in (named or {}).items():
    seed = zlib.crc32(f'{config.seed}/{name}/{key}'.encode()) >> 2
    if hasattr(value, 'items'):
      value = {'seed': seed, **value}
    noise.append(build.build(value, kinds.NOISE, f'{path}.noise.{key}'))
  hints = annotations.fields_of(Objective)
  options = {
      key: annotations.checked(section[key], hints[key], f'{path}.{key}')
      for key in ('across', 'every')
      if key in section
  }
  with build.located(path):
    return Objective(**fields, weight=weight, noise=tuple(noise), **options)
