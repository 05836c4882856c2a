"""Optimizers and schedules from a config: optax's, by their own names."""

from collections.abc import Mapping, Sequence
import inspect
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_enn import annotations, build, library

# What decays: kernels and embeddings. Biases and norms go by other names.
_DECAYED = ('kernel', 'embedding')
_MASKS = ('mask', 'weight_decay_mask')  # optax's names for what decays
_OURS = ('name', 'learning_rate', 'schedule', 'weight_decay', 'clip_norm')
_FACTORS = ('momentum', 'b1', 'b2')  # numbers below 1
_OWN_SCHEDULES = ('constant', 'cosine')  # that know the length of the run


def create_schedule(
    config: Mapping[str, Any], num_steps: int
) -> optax.Schedule:
  """Builds the learning rate of each step.

  Args:
    config: `config.optimizer`: the peak `learning_rate`, and as `schedule`
      `{'name': 'constant'}` or `{'name': 'cosine'}` (to 0 at the last step),
      both with `warmup_steps`, a line from 0 to the peak. Or any schedule of
      optax, see `schedule_from`: its values are the learning rates, and
      `learning_rate` is None.
    num_steps: length of the run.

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  path = 'config.optimizer.schedule'
  schedule = config.get('schedule')
  annotations.checked(schedule, annotations.SECTION | None, path)
  section = library.plain_tree(schedule) or {'name': 'constant'}
  name = section.get('name')
  peak = library.plain_tree(config.get('learning_rate'))
  if name not in _OWN_SCHEDULES:
    _find_schedule(name, path, _OWN_SCHEDULES)
    if peak is None:
      return schedule_from(section, path)
    raise ValueError(
        f'config.optimizer.learning_rate is {peak!r}, but the values of the'
        f' schedule {name} are the learning rates; set it to None'
    )
  library.check_number(peak, 'config.optimizer.learning_rate', least=0)
  build.check_names(section, ('name', 'warmup_steps'), path, 'the schedule')
  warmup = section.get('warmup_steps', 0)
  if not library.is_integer(warmup) or not 0 <= warmup < num_steps:
    raise ValueError(
        f'{path}.warmup_steps is {warmup!r}; expected an integer of at least 0'
        f' and less than config.num_steps ({num_steps})'
    )
  if name == 'cosine' and not warmup:
    return optax.cosine_decay_schedule(peak, num_steps)
  if name == 'cosine':
    return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, num_steps)
  if not warmup:
    return optax.constant_schedule(peak)
  return optax.linear_schedule(0.0, peak, warmup)


def schedule_from(section: Mapping[str, Any], path: str) -> optax.Schedule:
  """Builds any schedule of optax, for whatever follows the step.

  >>> line = {'name': 'linear', 'init_value': 1.0, 'end_value': 0.0}
  >>> schedule_from({**line, 'transition_steps': 100}, 'config.x.weight')(50)
  Array(0.5, dtype=float32, weak_type=True)

  Args:
    section: `name`, with or without its `_schedule`, and the arguments. A
      schedule among them (as in `join_schedules`) is a section of this form.
    path: of the section, for errors.

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  fields = library.plain_tree(section)
  create = _find_schedule(fields.pop('name', None), path)
  schedule = library.call(create, fields, path, schedule_from)
  with build.located(path):
    library.tried(lambda: jax.eval_shape(schedule, jnp.int32(0)))
  return schedule


def create_optimizer(
    config: Mapping[str, Any], num_steps: int
) -> optax.GradientTransformation:
  """Builds the optimizer.

  Args:
    config: `config.optimizer`. `name` is that of an optimizer in optax, or
      `contrib.NAME`; for `learning_rate` and `schedule` see `create_schedule`.
      `clip_norm` clips the global norm of the gradient (0 does not).
      `weight_decay` (0 by default) is the optimizer's own where that can leave
      out biases and norms, and is added to the clipped gradient elsewhere. The
      other fields are the optimizer's own arguments.
    num_steps: length of the run, for the schedule.

  Returns:
    A transformation whose weight decay leaves biases and norms alone. (It never
    sees the collection `frozen`.)

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  path, fields = 'config.optimizer', library.plain_tree(config)
  known = library.functions(optax, _is_rated)
  contrib = library.functions(optax.contrib, _is_rated)
  known |= {f'contrib.{name}': function for name, function in contrib.items()}
  name = fields.get('name')
  create = library.choose(known, name, f'{path}.name')
  own = inspect.signature(create).parameters
  known_fields = {*_OURS, *own}.difference(_MASKS)
  build.check_names(fields, known_fields, path, f'the optimizer {name}')
  for field in ('weight_decay', 'clip_norm', *_FACTORS):
    below = 1 if field in _FACTORS else math.inf
    if not isinstance(value := fields.get(field) or 0, Mapping):
      library.check_number(value, f'{path}.{field}', 0, below)
  schedule = fields.get('schedule') or {'name': 'constant'}
  rate: Any = create_schedule(config, num_steps)
  if optax.Schedule not in library.allowed_types(own['learning_rate']):
    rate = fields['learning_rate']
    if schedule.get('name') != 'constant' or schedule.get('warmup_steps'):
      raise ValueError(
          f'{path}.schedule is {schedule}, but the optimizer {name} takes one'
          " rate; set it to {'name': 'constant'}"
      )
  decay = fields.get('weight_decay') or 0.0
  if isinstance(decay, Mapping):
    decay = schedule_from(decay, f'{path}.weight_decay')
  ours: dict[str, Any] = {mask: _decay_mask for mask in _MASKS if mask in own}
  if 'weight_decay' in own:
    ours['weight_decay'], decay = (decay, 0.0) if ours else (0.0, decay)
  arguments = {k: v for k, v in fields.items() if k not in _OURS}
  ours['learning_rate'] = rate
  parts = [library.call(create, arguments, path, schedule_from, **ours)]
  if decay:
    parts.insert(0, optax.add_decayed_weights(decay, _decay_mask))
  if clip_norm := fields.get('clip_norm'):
    parts.insert(0, optax.clip_by_global_norm(clip_norm))
  tx = optax.chain(*parts) if len(parts) > 1 else parts[0]

  def step():
    params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
    return tx.update(params, tx.init(params), params)

  with build.located(f'{path} ({name})'):
    library.tried(lambda: jax.eval_shape(step))
  return tx


def _find_schedule(name: Any, path: str, others: Sequence[str] = ()) -> Any:
  """The schedule of optax with a name; `others` are known beside them."""
  known = library.functions(
      optax, lambda s: s.return_annotation == optax.Schedule
  )
  full = f'{name}_schedule'
  if full in known:
    return known[full]
  known |= dict.fromkeys(others)
  return library.choose(known, name, f'{path}.name')


def _is_rated(signature: inspect.Signature) -> bool:
  return 'learning_rate' in signature.parameters


def _decay_mask(params: Any) -> Any:
  """True for each leaf that weight decay shrinks."""

  def decayed(path, _):
    names = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
    return names[-1] in _DECAYED

  return jax.tree_util.tree_map_with_path(decayed, params)
