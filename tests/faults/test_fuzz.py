"""Wrong values in configs: refused with a sentence, or trained as they are.

FLAX_ENN_FUZZ is the number of values that are tried, FLAX_ENN_SEED says which.
"""

import math
import os
import random
import signal

import ml_collections
import numpy as np
import pytest

from flax_enn.training import checks, load_config
from flax_enn.training.trainer import Trainer
from tests import tiny

CONFIGS = sorted(path.stem for path in (tiny.ROOT / 'configs').glob('*.py'))
VALUES = [
    None, True, False, 0, 1, -1, 7, 10**9, 10**12, 0.1, -0.5, 1e300, math.nan,
    math.inf, -math.inf, '', 'False', '0.5', 'text', 'a:b', (), (0,), (-1,),
    (3, 'x'), (math.nan,), [[1]], {}, {'name': 'mlp'}, {'name': 5}, {'a': None},
    np.float32(0.5), np.int64(3), np.bool_(True), np.array([2, 3]),
    np.array(4), np.zeros((2, 0)), b'bytes', 1j, object,
]  # fmt: skip
SECONDS = 60


def fields(section, prefix=''):
  """Every field of a config, and every section."""
  for key, value in section.items():
    path = f'{prefix}{key}'
    yield path
    if isinstance(value, ml_collections.ConfigDict):
      yield from fields(value, f'{path}.')


def trials(number, seed):
  """(config, field, value), the same for a seed."""
  everything = [
      (name, field, i)
      for name in CONFIGS
      for field in fields(config(name))
      for i in range(len(VALUES))
  ]
  return random.Random(seed).sample(everything, min(number, len(everything)))


def config(name):
  return load_config(f'{tiny.ROOT}/configs/{name}.py:smoke')


class Hang(Exception):
  """A trial took too long."""


def alarm(*unused):
  raise Hang


@pytest.mark.slow
def test_a_wrong_value_is_a_sentence():
  number = int(os.environ.get('FLAX_ENN_FUZZ', 120))
  seed = int(os.environ.get('FLAX_ENN_SEED', 0))
  bad = []
  before = signal.signal(signal.SIGALRM, alarm)
  try:
    for name, field, i in trials(number, seed):
      signal.alarm(SECONDS)
      try:
        trainer = Trainer.from_config(
            tiny.changed(config(name), {field: VALUES[i]})
        )
        checks.check_data(trainer)
        checks.check(trainer)
      except ValueError:
        pass
      except Exception as e:  # what a user would see as a traceback
        bad.append(f'{name} {field}={VALUES[i]!r}: {type(e).__name__}: {e}')
      finally:
        signal.alarm(0)
  finally:
    signal.signal(signal.SIGALRM, before)
  assert not bad, '\n'.join(bad)
