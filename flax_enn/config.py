"""The fields of a config, their defaults and their checks.

A config file in `configs/` starts from `default_config()` and changes what its
recipe needs; `check(config)` says what is wrong with the numbers of a config
before anything is built.
"""

from collections.abc import Iterable
from typing import Any

import ml_collections
from ml_collections import config_dict

from flax_enn import annotations, sharding
from flax_enn.build import check_names


def default_config() -> ml_collections.ConfigDict:
  """Every field a config can have, with its default.

  Returns:
    seed: of everything random in the run.
    batch_size: examples in a step, over all devices and hosts.
    num_steps: length of the run.
    num_indices: epistemic indices in a training step; None for all members of
      an ensemble, else 8.
    accumulation: microbatches that a batch is split into, one after the other,
      which bounds memory; the gradient is that of the batch.
    log_every: steps between two written points of the training curves.
    dataset: `name` of a file in `flax_enn/data` and its fields; and the
      loader's: `holdout`, the part of the training split to evaluate on instead
      of the test split (tune with it), `workers` (processes; 0 loads in
      threads), `read_ahead` (batches) and `skip_bad` (examples that cannot be
      read and may be passed over, at most).
    likelihood: None for that of the data set, or `name` of a file in
      `flax_enn/likelihoods` and its fields.
    network: `name` of a file in `flax_enn/networks`, and its fields. Fields
      `classes` that are left out are the number of outputs that the likelihood
      needs; any network may have `priors` and be `frozen`.
    objectives: named terms; each has a `loss` and may have `weight` (a number,
      or a schedule by its name in optax), `inputs`, `indices`, `noise` (named)
      and `across`.
    optimizer: see `flax_enn/optimizer.py`.
    init: None, or the run whose modules this one starts from: `workdir`
      (relative to this run's own), `step` (`latest`, `best` or a number) and
      `modules`, target module -> source module; or a `file` of another library,
      see `flax_enn/checkpoints/foreign.py`.
    active_learning: None, or what `python -m flax_enn.active_learning` does;
      see `flax_enn/active_learning/recipe.py`. train.py takes all labels.
    mesh: sizes of the axes `data`, `index`, `fsdp`; one may be -1.
    sharding: logical axis -> axes of the mesh; see `flax_enn/sharding`.
    eval: the run's own evaluation: `every` (steps; 0 for the end only),
      `num_indices` (None for all members of an ensemble, else 1000), `tau`
      (labels in a joint prediction), `chunk` (indices at once; memory is that
      of chunk x batch_size x classes numbers, so many classes want a small
      one); `temperature`, that the logits are divided by, and
      `base_temperature` of the base's own.
    evals: further evaluations by name, each with any of the fields of `eval`
      but `every`, `dataset` (a section; the run's own by default) and `split`.
      A data set of the same name is preprocessed as in training, with what was
      learned there, one of another name in its own way.
    checkpoint: `every` (steps; 0 for the end only), `keep` (latest ones, beside
      the best).
  """
  return ml_collections.ConfigDict({
      'seed': 0,
      'batch_size': 64,
      'num_steps': 1000,
      'num_indices': config_dict.placeholder(int),
      'accumulation': 1,
      'log_every': 100,
      'dataset': {
          'name': 'digits',
          'holdout': 0.0,
          'workers': 0,
          'read_ahead': 16,
          'skip_bad': 0,
      },
      'likelihood': None,
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
      'active_learning': None,
      'mesh': {'data': -1, 'index': 1, 'fsdp': 1},
      'sharding': dict(sharding.DEFAULT_RULES),
      'eval': {
          'every': 0,
          'num_indices': config_dict.placeholder(int),
          'tau': 10,
          'chunk': 100,
          'temperature': 1.0,
          'base_temperature': 1.0,
      },
      'evals': {},
      'checkpoint': {'every': 0, 'keep': 2},
  })


# Integers -> the least and the most that they may be. What is above is taken
# for a slip: no machine has the memory, or the years.
_BOUNDS = {
    'seed': (0, 2**32 - 1),
    'batch_size': (1, 10**7),
    'num_steps': (1, 10**10),
    'num_indices': (1, 10**6),
    'accumulation': (1, 10**6),
    'log_every': (1, 10**10),
    'eval.every': (0, 10**10),
    'eval.num_indices': (1, 10**7),
    'eval.tau': (1, 10**5),
    'eval.chunk': (1, 10**7),
    'checkpoint.every': (0, 10**10),
    'checkpoint.keep': (1, 10**6),
}
_OPTIONAL = ('num_indices', 'eval.num_indices')


def check(config: ml_collections.ConfigDict) -> None:
  """Checks names and numbers of a config, without building anything.

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  defaults = default_config()
  _check_fields(config, defaults, 'config')
  for field, default in defaults.items():
    if isinstance(default, ml_collections.ConfigDict):
      annotations.checked(config[field], annotations.SECTION, f'config.{field}')
  for section in ('mesh', 'eval', 'checkpoint'):
    _check_fields(config[section], defaults[section], f'config.{section}')
  for field in ('init', 'likelihood', 'active_learning'):
    kind = annotations.SECTION | None
    annotations.checked(config[field], kind, f'config.{field}')
  for field in _BOUNDS:
    _check_integer(config, field)
  for axis, size in config.mesh.items():
    annotations.checked(size, int, f'config.mesh.{axis}')
  for name, entry in config.evals.items():
    path = f'config.evals.{name}'
    annotations.checked(entry, annotations.SECTION, path)
    if name in ('step', 'test', 'validation') or '/' in name:
      raise ValueError(
          f'{path}: that name has a meaning in results.json; choose another'
      )
    fields = {*defaults.eval, 'dataset', 'split', 'study'} - {'every'}
    check_names(entry or (), fields, path, 'an evaluation')
    for field in {'num_indices', 'tau', 'chunk'} & set(entry):
      _check_integer(config, f'evals.{name}.{field}', f'eval.{field}')
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


def _check_integer(config: Any, field: str, like: str | None = None) -> None:
  """Checks a field by the bounds of another, its own by default."""
  like = like or field
  least, most = _BOUNDS[like]
  kind = int | None if like in _OPTIONAL else int
  value = annotations.checked(_get(config, field), kind, f'config.{field}')
  if value is not None and not least <= value <= most:
    raise ValueError(
        f'config.{field} is {value!r}; it must be an integer of at least'
        f' {least} and at most {most}'
    )


def _get(config: Any, field: str) -> Any:
  for part in field.split('.'):
    config = config[part]
  return config
