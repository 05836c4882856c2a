"""JPEGs one after another in a file."""

import numpy as np
import pytest

from flax_enn.data.jpeg_pack import JpegPack
from flax_enn.data.preprocess import decode
from tests.data.fake_tfds import encoded, photo
from tests.data.reading import everything


def pack(n, first=0, size=None, classes=3):
  height, width = (6, 5) if size is None else (size, size)
  photos = [photo(height, width, seed=first + i) for i in range(n)]
  files = [encoded(p, 'JPEG').read() for p in photos]
  ends = np.cumsum([0, *map(len, files)]).astype(np.uint32)
  content = np.frombuffer(b''.join(files), np.uint8)
  y = (np.arange(n) % classes).astype(np.uint8)
  return {'jpeg': content, 'off': ends, 'y': y}


@pytest.fixture
def arrays():
  return {
      f'{key}_{split}': value
      for split, n in (('train', 7), ('test', 3))
      for key, value in pack(n, first=n).items()
  }


def dataset(arrays, tmp_path, **fields):
  np.savez(tmp_path / 'pack.npz', **arrays)
  return JpegPack(str(tmp_path / 'pack.npz'), **fields)


def test_images_are_those_of_the_files(arrays, tmp_path):
  mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
  arrays['class_names'] = np.array(['a', 'b', 'c'])
  made = dataset(arrays, tmp_path, mean=mean, std=std)
  assert made.class_names == ('a', 'b', 'c')
  assert made.likelihood.classes == 3
  x, y, _ = everything(made, 'test')
  np.testing.assert_array_equal(y, arrays['y_test'])
  a, b = arrays['off_test'][1:3]
  pixels = decode(arrays['jpeg_test'][a:b].tobytes(), 3)
  expected = (pixels / 255 - np.array(mean)) / np.array(std)
  np.testing.assert_allclose(x[1], expected, rtol=1e-5, atol=1e-5)
  assert x.shape == (3, *made.input_spec.shape)


def test_damaged_images_are_counted(arrays, tmp_path):
  start, end = arrays['off_train'][2:4]
  content = arrays['jpeg_train'].copy()
  content[start:end] = 0
  arrays['jpeg_train'] = content
  source = dataset(arrays, tmp_path).load('train')
  assert len(source) == 7 and list(source.unreadable) == [2]
  with pytest.raises(ValueError, match='not an image'):
    source[2]


@pytest.mark.parametrize(
    'change, fields, message',
    [
        ({'y_test': None}, {}, r"no arrays \['y_test'\]"),
        ({'off_train': np.arange(3)}, {}, r'off_train \[3\] are not where'),
        ({'off_train': np.arange(8)[::-1]}, {}, 'are not where'),
        ({'off_train': np.arange(8) * 10**6}, {}, 'are not where'),
        ({}, {'mean': (0.0, 0.0, 0.0)}, 'set both, or neither'),
    ],
)
def test_what_does_not_fit(arrays, tmp_path, change, fields, message):
  changed = {k: v for k, v in (arrays | change).items() if v is not None}
  with pytest.raises(ValueError, match=message):
    dataset(changed, tmp_path, **fields).load('train')


def test_no_file(tmp_path):
  for path, message in ((str(tmp_path / 'no.npz'), 'no such'), ('', 'empty')):
    with pytest.raises(ValueError, match=message):
      JpegPack(path).load('train')
