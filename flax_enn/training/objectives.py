"""What training minimises, from `config.objectives`."""

import dataclasses
import math
from typing import Any
import zlib

import ml_collections

from flax_enn import build
from flax_enn.core import Indexer
from flax_enn.losses import Objective


def create_objectives(
    config: ml_collections.ConfigDict, indexer: Indexer
) -> dict[str, Objective]:
  """Builds the named objectives of a config.

  Args:
    config: the whole config; noise that has no seed of its own is drawn from
      the run's.
    indexer: of the network, which the noise hangs on.
  """
  return {
      name: _objective(config, name).bind(indexer)
      for name in config.objectives
  }


def _objective(config: ml_collections.ConfigDict, name: str) -> Objective:
  path = f'config.objectives.{name}'
  section = config.objectives[name]
  fields = [f.name for f in dataclasses.fields(Objective)]
  build.check_names(section, fields, path, 'an objective')
  if 'loss' not in section:
    raise ValueError(
        f"{path} has no loss; add for example loss=dict(name='xent')"
    )

  def built(field: str, value: Any) -> Any:
    return build.build(value, 'flax_enn.losses', f'{path}.{field}')

  weight = section.get('weight', 1.0)
  if not isinstance(weight, (int, float)) or not math.isfinite(weight):
    raise ValueError(f'{path}.weight is {weight!r}; expected a finite number')
  noise = []
  for key, value in (section.get('noise') or {}).items():
    seed = zlib.crc32(f'{config.seed}/{name}/{key}'.encode()) >> 2
    noise.append(built(f'noise.{key}', {'seed': seed, **value}))
  inputs = section.get('inputs')
  return Objective(
      loss=built('loss', section['loss']),
      weight=weight,
      inputs=built('inputs', inputs) if inputs else None,
      noise=tuple(noise),
      across=section.get('across', False),
  )
