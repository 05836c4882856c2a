"""Files of a predictor, damaged at random: read, or one sentence."""

import io
import os
import random

import jax
import numpy as np
from PIL import Image
import pytest

from flax_enn.data.preprocess import Pixels
from flax_enn.inference import reading
from flax_enn.likelihoods import Categorical
from flax_enn.model import Model

TRIALS = int(os.environ.get('FLAX_ENN_FUZZ', '150'))
SEED = int(os.environ.get('FLAX_ENN_SEED', '0'))
SHAPE = (6, 6, 3)
MODEL = Model(
    None, Categorical(3), jax.ShapeDtypeStruct(SHAPE, np.float32),
    Pixels(SHAPE), ('cat', 'dog', 'cow'),
)  # fmt: skip


def image(kind):
  rng = np.random.default_rng(0)
  file = io.BytesIO()
  Image.fromarray(rng.integers(0, 256, SHAPE, dtype=np.uint8)).save(file, kind)
  return file.getvalue()


def arrays(save, *args, **kwargs):
  file = io.BytesIO()
  save(file, *args, **kwargs)
  return file.getvalue()


X = np.zeros((3, *SHAPE), np.uint8)
FILES = {
    'a.png': image('png'),
    'a.jpg': image('jpeg'),
    'a.gif': image('gif'),
    'a.npy': arrays(np.save, X),
    'a.npz': arrays(np.savez, x=X, y=np.arange(3)),
    'a.csv': b'input,label\nb.png,dog\nb.png,2\nb.npy[1],cat\n',
}


def damaged(content, rng):
  """With bytes flipped, cut off, doubled or put in at random."""
  found = bytearray(content)
  for _ in range(rng.choice([1, 1, 2, 20])):
    place = rng.randrange(len(found) or 1)
    match rng.randrange(4):
      case 0 if found:
        found[place % len(found)] ^= 1 << rng.randrange(8)
      case 1:
        del found[place:]
      case 2:
        found[place:place] = rng.randbytes(rng.choice([1, 8, 300]))
      case _:
        found[place:place] = found[place : place + rng.choice([1, 30])]
  return bytes(found)


@pytest.mark.parametrize('name', FILES)
def test_damaged_files(name, tmp_path):
  rng = random.Random(f'{SEED} {name}')
  (tmp_path / 'b.png').write_bytes(FILES['a.png'])
  (tmp_path / 'b.npy').write_bytes(FILES['a.npy'])
  path, refused = tmp_path / name, 0
  reader = reading.read_labelled if name == 'a.csv' else reading.read
  for _ in range(TRIALS):
    path.write_bytes(damaged(FILES[name], rng))
    asked = str(path) if name == 'a.csv' else [str(path)]
    try:
      found = reader(MODEL, asked)
    except ValueError as e:
      refused += 1
      assert str(tmp_path) in str(e), e
    else:
      assert found.x.shape[1:] == SHAPE and np.isfinite(found.x).all()
      assert found.y is None or set(found.y) <= {0, 1, 2}
  assert refused > TRIALS // 10
