"""The fields of a config, their defaults and their checks.

A config file in `configs/` starts from `default_config()` and changes what its
recipe needs; `check(config)` says what is wrong with the numbers of a config
before anything is built.
"""

from collections.abc import Iterable, Mapping, Sequence
import json
import math
from typing import Any

from etils import epath
import ml_collections

from flax_enn.build import check_names
from flax_enn.files import write_file

# What may differ when a run goes on: how it is laid out, judged and kept.
FREE_TO_CHANGE = ('mesh', 'eval', 'checkpoint', 'num_steps')


def default_config() -> ml_collections.ConfigDict:
  """Every field a config can have, with its default.

  Returns:
    seed: of everything random in the run.
    batch_size: examples in a step, over all devices and hosts.
    num_steps: length of the run.
    num_indices: epistemic indices in a training step.
    accumulation: parts that a batch is gone through in, one after the other,
      which bounds memory; the gradient is that of the batch.
    log_every: steps between two written points of the training curves.
    dataset: `name` of a file in `flax_enn/data` and its fields; `holdout`, the
      part of the training split to judge on instead of the test split (tune
      with it); the loader's `workers` (processes; 0 loads in threads) and
      `read_ahead` (batches).
    network: `name` of a file in `flax_enn/networks`, and its fields.
    objectives: named terms; each has a `loss` and may have `weight`, `inputs`,
      `noise` (named) and `across`.
    optimizer: see `flax_enn/training/optimizer.py`.
    init: None, or the run whose modules this one starts from: `workdir`
      (relative to this run's own), `step` (`latest`, `best` or a number) and
      `modules`, target module -> source module.
    mesh: sizes of the axes `data`, `index`, `fsdp`; one may be -1.
    eval: `every` (steps; 0 for the end only), `num_indices`, `tau` (labels in a
      joint prediction), `chunk` (indices at once; memory is that of chunk x
      batch_size x classes numbers, so many classes want a small one);
      `temperature`, that the logits are divided by in evaluation, and
      `base_temperature` of the base's own.
    checkpoint: `every` (steps; 0 for the end only), `keep` (latest ones, beside
      the best).
  """
  return ml_collections.ConfigDict({
      'seed': 0,
      'batch_size': 64,
      'num_steps': 1000,
      'num_indices': 8,
      'accumulation': 1,
      'log_every': 100,
      'dataset': {
          'name': 'digits',
          'holdout': 0.0,
          'workers': 0,
          'read_ahead': 16,
      },
      'network': {},
      'objectives': {},
      'optimizer': {
          'name': 'adamw',
          'learning_rate': 1e-3,
          'weight_decay': 0.0,
          'clip_norm': 0.0,
          'schedule': {'name': 'cosine', 'warmup_steps': 0},
      },
      'init': None,
      'mesh': {'data': -1, 'index': 1, 'fsdp': 1},
      'eval': {
          'every': 0,
          'num_indices': 1000,
          'tau': 10,
          'chunk': 100,
          'temperature': 1.0,
          'base_temperature': 1.0,
      },
      'checkpoint': {'every': 0, 'keep': 2},
  })


def parse_variants(
    arg: str, known: Sequence[str], one_of: Sequence[str] = ()
) -> set[str]:
  """Splits what follows the colon in `--config=configs/NAME.py:a,b`.

  Args:
    arg: comma-separated names of variants.
    known: the variants that the config has.
    one_of: more of them, of which there is always one: the first by default.

  Raises:
    ValueError: a name that the config does not know, or two of `one_of`.
  """
  variants = {name for name in arg.split(',') if name}
  check_names(variants, (*one_of, *known), '--config=…:', 'this config file')
  chosen = sorted(variants & set(one_of))
  if len(chosen) > 1:
    raise ValueError(
        f'--config=…:{arg} asks for {" and ".join(chosen)} at once; choose one'
        f' of {", ".join(one_of)}'
    )
  return variants if chosen else variants | set(one_of[:1])


_POSITIVE = (
    'batch_size',
    'num_steps',
    'num_indices',
    'accumulation',
    'log_every',
    'eval.num_indices',
    'eval.tau',
    'eval.chunk',
    'checkpoint.keep',
)
_NOT_NEGATIVE = ('seed', 'eval.every', 'checkpoint.every')


def check(config: ml_collections.ConfigDict) -> None:
  """Checks names and numbers of a config, without building anything.

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  defaults = default_config()
  _check_fields(config, defaults, 'config')
  for section in ('mesh', 'eval', 'checkpoint'):
    _check_fields(config[section], defaults[section], f'config.{section}')
  for field in _POSITIVE:
    _check_integer(config, field, 1)
  for field in _NOT_NEGATIVE:
    _check_integer(config, field, 0)
  for field in ('temperature', 'base_temperature'):
    value = config.eval[field]
    if not isinstance(value, (int, float)) or not 0 < value < math.inf:
      raise ValueError(
          f'config.eval.{field} is {value!r}; logits are divided by it, so it'
          ' is a finite number above 0'
      )
  if config.seed >= 2**32:
    raise ValueError(
        f'config.seed is {config.seed}; a seed is less than 2**32, or two of'
        ' them would give the same run'
    )
  if config.eval.tau > config.batch_size:
    raise ValueError(
        f'config.eval.tau is {config.eval.tau}, but no batch has more than'
        f' config.batch_size ({config.batch_size}) inputs; set config.eval.tau'
        ' to that or less'
    )
  if not config.objectives:
    raise ValueError(
        'config.objectives is empty; it needs at least one named objective, for'
        " example dict(data=dict(loss=dict(name='xent')))"
    )


def _check_fields(
    found: Iterable[str], defaults: Iterable[str], path: str
) -> None:
  check_names(found, defaults, path, 'this section')
  lacking = sorted(set(defaults) - set(found))
  if lacking:
    raise ValueError(
        f'{path} lacks the fields {lacking}; start from'
        ' flax_enn.training.default_config() and change what differs'
    )


def _check_integer(config: Any, field: str, least: int) -> None:
  value = config
  for part in field.split('.'):
    value = value[part]
  if not isinstance(value, int) or isinstance(value, bool) or value < least:
    raise ValueError(
        f'config.{field} is {value!r}; it must be an integer of at least'
        f' {least}'
    )


def check_workdir(
    config: ml_collections.ConfigDict, workdir: epath.Path
) -> None:
  """Checks that a workdir that holds a run holds a run of this config.

  Raises:
    ValueError: it differs in a field that decides the numbers of the run.
  """
  path = workdir / 'config.json'
  if not path.exists():
    return
  try:
    old = _flat(json.loads(path.read_text()))
  except json.JSONDecodeError as e:
    raise ValueError(f'{path} cannot be read as JSON: {e}') from e
  new = _flat(json.loads(config.to_json()))
  differ = [
      f'config.{k} is {old.get(k, "absent")!r} there and'
      f' {new.get(k, "absent")!r} here'
      for k in sorted(old.keys() | new.keys())
      if k.split('.')[0] not in FREE_TO_CHANGE and old.get(k) != new.get(k)
  ]
  if differ:
    raise ValueError(
        f'workdir {workdir} belongs to another config: {"; ".join(differ)}. Use'
        ' another --workdir, or the config it was started with (only'
        f' {", ".join(FREE_TO_CHANGE)} may differ when a run goes on)'
    )


def claim_workdir(
    config: ml_collections.ConfigDict, workdir: epath.Path
) -> None:
  """Writes the config to the workdir, on the first process."""
  text = json.dumps(json.loads(config.to_json()), indent=2, sort_keys=True)
  write_file(workdir / 'config.json', f'{text}\n'.encode())


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """`{'a': {'b': 1}}` -> `{'a.b': 1}`."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat
