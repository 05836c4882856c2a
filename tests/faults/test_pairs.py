"""Two runs in one folder: the first ends as if it were alone.

FLAX_ENN_PAIRS is the number of pairs, FLAX_ENN_SEED says when the second comes.
"""

import os
import random
import time

import pytest

from tests import tiny

CONFIG = '''
from tests import tiny

def get_config():
  return tiny.epinet(num_steps=600, log_every=100, **{'checkpoint.every': 50})
'''


@pytest.mark.slow
def test_22_the_second_is_told_so_and_the_first_goes_on(tmp_path):
  rng = random.Random(int(os.environ.get('FLAX_ENN_SEED', 0)))
  (tmp_path / 'config.py').write_text(CONFIG)

  def start(workdir):
    flags = (f'--config={tmp_path}/config.py', f'--workdir={workdir}')
    return tiny.python(tiny.ROOT / 'train.py', *flags)

  with start(tmp_path / 'alone') as alone:
    said, _ = alone.communicate()
  assert alone.returncode == 0, said
  expected = (tmp_path / 'alone' / 'results.json').read_bytes()
  for pair in range(int(os.environ.get('FLAX_ENN_PAIRS', 1))):
    workdir = tmp_path / str(pair)
    with start(workdir) as first:
      while not (workdir / 'lock.json').exists():
        assert first.poll() is None
        time.sleep(0.05)
      time.sleep(rng.uniform(0, 3))
      with start(workdir) as second:
        told, _ = second.communicate()
      said, _ = first.communicate()
    assert first.returncode == 0, said
    assert (workdir / 'results.json').read_bytes() == expected
    # It came too late where the first had ended, and evaluated it again.
    if second.returncode:
      assert second.returncode == 1, told
      assert f'is in use by process {first.pid} on' in told, told
      assert 'Traceback' not in told
