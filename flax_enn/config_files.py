"""Config files: what they are made with, and how they are loaded."""

from collections.abc import Sequence
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_collections
from ml_collections import config_dict

from flax_enn.build import check_names
from flax_enn.data_section import LOADER_FIELDS


def smoke(config: ml_collections.ConfigDict, **dataset: Any) -> None:
  """Makes a recipe tiny: two steps of 16 fake examples, nothing to start from.

  Args:
    config: of a file in `configs/`, whose network is left to it.
    dataset: fields of `flax_enn.data.fake`.
  """
  config.update(batch_size=16, num_steps=2)
  config.init = None
  config.eval.num_indices = 8
  config.dataset = {'name': 'fake', **dataset}
  if config.optimizer.schedule.get('warmup_steps'):
    config.optimizer.schedule.warmup_steps = 1


def on_features(
    config: ml_collections.ConfigDict, path: str | None = None
) -> None:
  """Makes a recipe train on what its frozen base has computed before.

  Args:
    config: whose network has a frozen base; it is changed.
    path: of the folder that `flax_enn.features` has written; None leaves it
      to the command line, `--config.dataset.path`.
  """
  kept = {k: config.dataset[k] for k in LOADER_FIELDS if k in config.dataset}
  config.dataset = {'name': 'features', **kept}
  config.dataset.path = path or config_dict.placeholder(str)
  config.network.base = {'name': 'stored_features'}
  config.init = None


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


def load_module(path: str) -> ModuleType:
  """The Python file of 'configs/NAME.py[:VARIANT]', run as a module.

  Raises:
    ValueError: there is no such file, or it is not Python.
  """
  file = Path(path.partition(':')[0])
  if not file.is_file():
    raise ValueError(
        f'config file {file}: there is no such file; expected'
        ' configs/NAME.py[:VARIANT]'
    )
  spec = importlib.util.spec_from_file_location(f'configs.{file.stem}', file)
  if spec is None or spec.loader is None:
    raise ValueError(f'config file {file} is not a Python file, NAME.py')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except (SyntaxError, UnicodeDecodeError) as e:
    raise ValueError(f'config file {file} is not Python: {e}') from e
  return module


def load_config(path: str) -> ml_collections.ConfigDict:
  """The config of 'configs/NAME.py[:VARIANT]', as `train.py --config` has it.

  Raises:
    ValueError: there is no such file, it is not Python, or it has no
      `get_config()`, or none that takes a variant.
  """
  get_config = getattr(load_module(path), 'get_config', None)
  file, *variant = path.split(':', 1)
  if not callable(get_config):
    raise ValueError(
        f'config file {file} defines no get_config(): a function that changes'
        ' what differs in default_config() and returns it'
    )
  try:
    inspect.signature(get_config).bind(*variant)
  except TypeError as e:
    raise ValueError(
        f'config file {path}: its get_config() takes'
        f' {"no" if variant else "a"} variant after a colon ({e})'
    ) from e
  config = get_config(*variant)
  if not isinstance(config, ml_collections.ConfigDict):
    raise ValueError(
        f'config file {file}: get_config() returns {config!r}; expected a'
        ' ConfigDict, such as that of default_config()'
    )
  return config
