"""What changes the numbers of a run and is not in its config.

The switches of JAX and XLA, and the order of examples of this version.
"""

import os
import re
from typing import Any

from etils import epath
import jax

from flax_enn import run_folder

# Those of JAX, which an environment variable in capitals sets too.
_JAX = (
    'jax_default_matmul_precision',
    'jax_default_prng_impl',
    'jax_enable_x64',
    'jax_high_dynamic_range_gumbel',
    'jax_numpy_dtype_promotion',
    'jax_random_seed_offset',
    'jax_softmax_custom_jvp',
    'jax_threefry_partitionable',
)
_XLA = r'--xla_\w*(?:fast_math|fast_min_max|excess_precision)\w*(?:=\S*)?'
_FILE = 'switches.json'
# The version of the order and the augmentation of training examples. Whoever
# changes what a seed gives (`data.order`, `data.row_generators`) counts it up.
_ORDER = 'order_of_examples'
ORDER_VERSION = 1


def current() -> dict[str, Any]:
  """Environment variable -> value, as JSON types; those that this JAX has."""
  found = {
      name.upper(): getattr(jax.config, name)
      for name in _JAX
      if hasattr(jax.config, name)
  }
  xla = re.findall(_XLA, os.environ.get('XLA_FLAGS', ''))
  return {
      **{name: getattr(value, 'value', value) for name, value in found.items()},
      'XLA_FLAGS': ' '.join(sorted(xla)) or None,
      'NVIDIA_TF32_OVERRIDE': os.environ.get('NVIDIA_TF32_OVERRIDE'),
  }


def write(workdir: epath.Path) -> None:
  """Writes all of it to the folder of a run, on the first process."""
  run_folder.write_json(workdir / _FILE, {**current(), _ORDER: ORDER_VERSION})


def check(workdir: epath.Path) -> None:
  """Checks that a run goes on with what it was started with.

  Raises:
    ValueError: which differ, and what to set.
  """
  path = workdir / _FILE
  if not path.exists():  # a new run, or that of an older version
    return
  then, now = run_folder.read_json(path), current()
  if (order := then.get(_ORDER, 1)) != ORDER_VERSION:
    raise ValueError(
        f'{path} says that the run began with version {order!r} of the order of'
        f' examples, and this flax_enn has version {ORDER_VERSION}. Go on with'
        ' the flax_enn that it began with, or use another --workdir'
    )
  differ = [k for k in sorted(then) if k in now and then[k] != now[k]]
  if differ:
    changes = (f'{k} was {then[k]!r} and is {now[k]!r}' for k in differ)
    raise ValueError(
        f'{path} says that numbers were computed otherwise when the run began:'
        f' {"; ".join(changes)}. Set these as they were, in the environment or'
        ' where the program sets them (None: leave it out), or use another'
        ' --workdir'
    )
