"""Flipped bits in the newest checkpoint: never restored, never the end.

FLAX_ENN_FLIPS is their number, FLAX_ENN_SEED says which.
"""

import os
import random
import shutil

import pytest

from flax_enn.training import train_and_evaluate
from tests import tiny


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A config with arrays of some size, and the folder of its run."""
  config = tiny.epinet(**{'network.base.hiddens': (256, 256)})
  workdir = tmp_path_factory.mktemp('run')
  train_and_evaluate(config, workdir)
  return config, workdir


def flip(folder, rng):
  """Flips a bit of a file, each bit of the folder as likely; returns which."""
  files = sorted(p for p in folder.rglob('*') if p.is_file())
  path = rng.choices(files, [p.stat().st_size for p in files])[0]
  content = bytearray(path.read_bytes())
  place, bit = rng.randrange(len(content)), rng.randrange(8)
  content[place] ^= 1 << bit
  path.write_bytes(content)
  return f'bit {bit} of byte {place} of {path}'


@pytest.mark.slow
def test_what_is_restored_is_what_was_saved(run, tmp_path):
  config, workdir = run
  rng = random.Random(int(os.environ.get('FLAX_ENN_SEED', 0)))
  newest = tiny.last_state(config, workdir)
  older = shutil.copytree(workdir, tmp_path / 'older')
  shutil.rmtree(older / 'checkpoints' / '4')
  saved = [newest, tiny.last_state(config, older)]
  assert [step for _, step in saved] == [4, 2]
  for _ in range(int(os.environ.get('FLAX_ENN_FLIPS', 20))):
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    what = flip(copy / 'checkpoints' / '4', rng)
    assert tiny.last_state(config, copy) in saved, what
    shutil.rmtree(copy)


@pytest.mark.slow
def test_metadata_that_say_another_shape_are_damage(run, tmp_path):
  """Where an older checkpoint of the run fits, it is not the network."""
  config, workdir = run
  copy = shutil.copytree(workdir, tmp_path / 'copy')
  path = copy / 'checkpoints' / '4' / 'state' / '_METADATA'
  text = path.read_text()
  assert '256' in text
  path.write_text(text.replace('256', '257'))
  assert tiny.last_state(config, copy)[1] in (2, 4)
