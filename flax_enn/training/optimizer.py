"""Optimizers and schedules from `config.optimizer`, all of them optax's."""

from collections.abc import Mapping
import math
from typing import Any

import jax
import optax

from flax_enn import build

# What decays: kernels and embeddings. Biases and norms go by other names.
_DECAYED = ('kernel', 'embedding')

_COMMON = ('name', 'learning_rate', 'schedule', 'weight_decay', 'clip_norm')
_OWN = {'sgd': ('momentum',), 'adamw': ('b1', 'b2'), 'lamb': ('b1', 'b2')}


def create_schedule(
    config: Mapping[str, Any], num_steps: int
) -> optax.Schedule:
  """Builds the learning rate of each step.

  Args:
    config: `config.optimizer`: the peak `learning_rate`, and `schedule`,
      `{'name': 'constant'}` or `{'name': 'cosine', 'warmup_steps': int}`
      (linear warm-up from 0, then a cosine to 0 at the last step).
    num_steps: length of the run.
  """
  schedule = dict(config.get('schedule') or {'name': 'constant'})
  name = schedule.pop('name', None)
  build.check_names(
      schedule, ('warmup_steps',), 'config.optimizer.schedule', 'the schedule'
  )
  peak, warmup = config.get('learning_rate'), schedule.get('warmup_steps', 0)
  if not isinstance(peak, (int, float)) or not 0 <= peak < math.inf:
    raise ValueError(
        f'config.optimizer.learning_rate is {peak!r}; expected a finite number'
        ' of at least 0'
    )
  if not 0 <= warmup < num_steps:
    raise ValueError(
        f'config.optimizer.schedule.warmup_steps is {warmup}; expected at least'
        f' 0 and less than config.num_steps ({num_steps})'
    )
  if name == 'cosine' and not warmup:
    return optax.cosine_decay_schedule(peak, num_steps)
  if name == 'cosine':
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)
  if name == 'constant':
    if not warmup:
      return optax.constant_schedule(peak)
    return optax.linear_schedule(0.0, peak, warmup)
  raise ValueError(
      f'config.optimizer.schedule.name is {name!r}; known: constant, cosine'
  )


def create_optimizer(
    config: Mapping[str, Any], num_steps: int
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Args:
    config: `config.optimizer`. `name` is `sgd` (Nesterov `momentum`, and
      coupled `weight_decay`), `adamw` or `lamb` (`b1`, `b2`, and decoupled
      `weight_decay`); `clip_norm` clips the global norm of
      the gradient (0 does not).
    num_steps: length of the run, for the schedule.

  Returns:
    A transformation whose weight decay leaves biases and norms alone. (It never
    sees the collection `frozen`.)
  """
  name = config.get('name')
  if name not in _OWN:
    raise ValueError(
        f'config.optimizer.name is {name!r}; known: {", ".join(_OWN)}'
    )
  fields = (*_COMMON, *_OWN[name])
  build.check_names(config, fields, 'config.optimizer', f'optimizer {name}')
  for field in ('weight_decay', 'clip_norm', 'momentum', 'b1', 'b2'):
    most = 1 if field in ('momentum', 'b1', 'b2') else math.inf
    value = config.get(field) or 0
    if not isinstance(value, (int, float)) or not 0 <= value < most:
      raise ValueError(
          f'config.optimizer.{field} is {value!r}; expected a number of at'
          f' least 0 and less than {most}'
      )
  rate = create_schedule(config, num_steps)
  decay = config.get('weight_decay', 0.0)
  moments = {k: config[k] for k in ('b1', 'b2') if k in config}
  if name == 'sgd':
    tx = optax.chain(
        optax.add_decayed_weights(decay, _decay_mask),
        optax.sgd(rate, config.get('momentum', 0.9), nesterov=True),
    )
  else:
    create = {'adamw': optax.adamw, 'lamb': optax.lamb}[name]
    tx = create(rate, weight_decay=decay, mask=_decay_mask, **moments)
  clip_norm = config.get('clip_norm')
  if not clip_norm:
    return tx
  return optax.chain(optax.clip_by_global_norm(clip_norm), tx)


def _decay_mask(params: Any) -> Any:
  """True for each leaf that weight decay shrinks."""

  def decayed(path, _):
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    return names[-1] in _DECAYED

  return jax.tree_util.tree_map_with_path(decayed, params)
