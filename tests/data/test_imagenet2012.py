"""ImageNet: windows, decoding and resampling of JPEGs, and the prepared set."""

import dataclasses
import io
import itertools
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from flax_enn.data import ArraySource, jpeg
from flax_enn.data.imagenet2012 import Imagenet2012
from flax_enn.likelihoods import Categorical
from tests import slow
from tests.data import fake_tfds
from tests.data.reading import eval_batches, sizes, train_batches

MEAN = 255 * np.array([0.485, 0.456, 0.406])
STD = 255 * np.array([0.229, 0.224, 0.225])

# Of 255. TensorFlow looks the filter's weights up in a table of 1,024 places.
TABLE = 0.2

# Height, width, options of the file: portrait, odd, tiny, progressive, …
FILES = {
    'landscape': (375, 500, {}),
    'portrait': (500, 333, {'quality': 90}),
    'odd': (301, 299, {}),
    'tiny': (17, 23, {}),
    'narrow': (40, 400, {}),
    'progressive': (256, 384, {'progressive': True}),
    'full colour': (300, 280, {'subsampling': '4:4:4'}),
    'one pixel': (1, 1, {}),
}


def a_jpeg(name):
  height, width, options = FILES[name]
  pixels = fake_tfds.photo(height, width, seed=len(name))
  return fake_tfds.encoded(pixels, 'JPEG', **options).getvalue()


def pixels_of(encoded):
  with Image.open(io.BytesIO(encoded)) as image:
    return np.asarray(image.convert('RGB'))


def bicubic(image, size):
  """Slow: Keys's filter (a = -1/2) at the centres of pixels, four to a side.

  Weights of pixels beyond the edge are given to the others.
  """

  def weights(length):
    matrix = np.zeros((size, length))
    for i in range(size):
      centre = (i + 0.5) * length / size - 0.5
      for j in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
        t = abs(centre - j)
        if 0 <= j < length:
          matrix[i, j] = (
              1.5 * t**3 - 2.5 * t**2 + 1
              if t <= 1
              else -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
          )
    return matrix / matrix.sum(1, keepdims=True)

  rows = np.tensordot(weights(image.shape[0]), image.astype(float), 1)
  return np.tensordot(weights(image.shape[1]), rows, (1, 1)).swapaxes(0, 1)


def seen_by_evaluation(encoded, **fields):
  dataset = Imagenet2012(**fields)
  x = dataset.preprocess(encoded)
  assert (x.shape, x.dtype) == (dataset.input_spec.shape, np.float32)
  return x * STD + MEAN


def central(pixels, size=224, padding=32):
  """The central crop by hand."""
  height, width = pixels.shape[:2]
  side = int(size * min(height, width) / (size + padding)) or 1
  top, left = (-(-(length - side) // 2) for length in (height, width))
  return pixels[top : top + side, left : left + side]


@pytest.mark.parametrize('name', FILES)
def test_evaluation_is_a_slow_reference(name):
  encoded = a_jpeg(name)
  expected = bicubic(central(pixels_of(encoded)), 224)
  difference = np.abs(seen_by_evaluation(encoded) - expected)
  # libjpeg interpolates colours across the edge of a crop when it has decoded
  # what lies beyond: the outermost pixels, and what is computed from them.
  edge = 2 + -(-3 * 224 // len(central(pixels_of(encoded))))
  assert difference[edge:-edge, edge:-edge].max(initial=0) < TABLE
  assert difference.mean() < 0.5


@pytest.mark.parametrize('name', ['odd', 'tiny', 'narrow', 'full colour'])
def test_evaluation_is_that_of_pillow_where_it_enlarges(name):
  encoded = a_jpeg(name)
  crop = Image.fromarray(central(pixels_of(encoded), 448))
  expected = np.asarray(crop.resize((448, 448), Image.Resampling.BICUBIC))
  got = seen_by_evaluation(encoded, image_size=448)
  # Pillow rounds and clips to bytes, after each of its two passes.
  difference = np.abs(np.clip(got, 0, 255) - expected)
  edge = 2 + -(-3 * 448 // crop.size[0])
  assert difference[edge:-edge, edge:-edge].max() < 2


def photos():
  folder = os.environ.get('FLAX_ENN_DATA')
  path = Path(folder or '.') / 'imagenet_sample_1000'
  if not path.is_dir():
    pytest.skip('FLAX_ENN_DATA names no folder with imagenet_sample_1000')
  offsets = np.load(path / 'index.npz')['offsets']
  content = (path / 'images_256.bin').read_bytes()
  return [content[a:b] for a, b in itertools.pairwise(offsets)]


def test_real_photos_are_those_of_pillow():
  """They have 256 pixels by the shorter side: nothing is resampled."""
  encoded = photos()
  assert len(encoded) == 1000
  for one in encoded[::5]:
    got = seen_by_evaluation(one)
    expected = central(pixels_of(one))
    assert expected.shape == got.shape
    difference = np.abs(got - expected)
    assert difference[1:-1, 1:-1].max() < 1e-3
    assert difference.mean() < 0.5


@pytest.mark.parametrize('size', [160, 288])
def test_real_photos_at_another_size(size):
  for one in photos()[::50]:
    expected = bicubic(central(pixels_of(one), size), size)
    difference = np.abs(seen_by_evaluation(one, image_size=size) - expected)
    assert difference[5:-5, 5:-5].max() < TABLE


@pytest.mark.parametrize('name', FILES)
def test_a_decoded_image_needs_no_tensorflow(name):
  pixels = pixels_of(a_jpeg(name))
  found = seen_by_evaluation(pixels)
  expected = bicubic(central(pixels), 224)
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_an_image_of_another_form_is_named():
  with pytest.raises(ValueError, match=r'float64\[4, 4, 3\]; expected bytes'):
    Imagenet2012().preprocess(np.zeros((4, 4, 3)))


def test_the_middle_is_exact_at_every_size():
  # 3 / 40 * 200 is 14.999… in floats.
  for side in range(3, 400, 3):
    assert jpeg.central_window(side, side + 7, 200, 40)[2] == side * 5 // 6


def test_images_for_print():
  """Cyan, magenta, yellow and black, as some of ImageNet were."""
  pixels = fake_tfds.photo(256, 256)
  file = io.BytesIO()
  Image.fromarray(pixels).convert('CMYK').save(file, 'JPEG', quality=95)
  x = seen_by_evaluation(file.getvalue())
  assert np.abs(x - central(pixels_of(file.getvalue()))).mean() < 1


def test_grey_images_get_three_channels():
  grey = fake_tfds.encoded(fake_tfds.photo(60, 50)[..., 0], 'JPEG').getvalue()
  x = seen_by_evaluation(grey)
  np.testing.assert_allclose(x[..., 0], x[..., 2], atol=1e-3)
  assert np.ptp(x) > 50


@pytest.mark.parametrize('window', [(0, 0, 5, 7), (40, 31, 90, 101)])
def test_a_part_is_the_part_of_the_whole(window):
  encoded = a_jpeg('full colour')
  top, left, height, width = window
  part = pixels_of(encoded)[top : top + height, left : left + width]
  got = jpeg.decode(encoded, window, 64)
  np.testing.assert_allclose(got, bicubic(part, 64), atol=TABLE)


def draws(height, width, n=4000, area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
  rng = np.random.default_rng(0)
  windows = [
      jpeg.random_window(height, width, area, aspect, rng) for _ in range(n)
  ]
  return np.array(windows)


def law(area=(0.08, 1.0), aspect=(3 / 4, 4 / 3)):
  """Densities of a window in a unit square, on a grid of (ratio, height).

  The ratio is uniform, the height is uniform where the area and the square
  allow it, and areas below a tenth are drawn again.
  """
  ratio = np.linspace(*aspect, 801)[:, None]
  height = np.linspace(0, 1, 2001)[None]
  low, high = np.sqrt(area[0] / ratio), np.sqrt(area[1] / ratio)
  high = np.minimum(np.minimum(high, 1), 1 / ratio)
  inside = (height >= low) & (height <= high)
  density = inside / (high - low) * (ratio * height**2 >= 0.1)
  return ratio + 0 * height, ratio * height**2, density / density.sum()


@pytest.mark.parametrize('what', ['area', 'aspect'])
def test_windows_have_the_law_they_should(what):
  side = 4000
  _, _, rows, columns = draws(side, side).T
  ratio, area, density = law()
  found, grid = {
      'area': (rows * columns / side**2, area),
      'aspect': (columns / rows, ratio),
  }[what]
  order = np.argsort(grid, axis=None)
  cumulative = np.cumsum(density.ravel()[order])
  found = np.sort(found)
  expected = np.interp(found, grid.ravel()[order], cumulative)
  distance = np.abs(expected - (np.arange(len(found)) + 0.5) / len(found)).max()
  # Kolmogorov and Smirnov: p = 0.001, and a little for the grid.
  assert distance < 1.95 / np.sqrt(len(found)) + 0.003
  if what == 'area':
    assert 0.1 <= found[0] < 0.11 and found[-1] > 0.85


@pytest.mark.parametrize('height, width', [(375, 500), (500, 120), (9, 7)])
def test_windows_lie_inside(height, width):
  top, left, rows, columns = draws(height, width).T
  for start, length, whole in ((top, rows, height), (left, columns, width)):
    assert start.min() == 0 and (start + length).max() == whole
  assert (rows * columns).min() >= 0.1 * height * width
  if height > 100:  # not only where pixels are few
    assert (columns / rows).min() > 0.74 and (columns / rows).max() < 1.35
  # Nothing pulls them to a side.
  slack = height - rows > 20
  if slack.any():
    centre = (top / np.maximum(height - rows, 1))[slack].mean()
    assert abs(centre - 0.5) < 0.03


@pytest.mark.parametrize('area', [(0.3, 1.0), (0.5, 0.6), (0.2, 0.2001)])
def test_windows_keep_to_the_area_given(area):
  for height, width in ((200, 200), (300, 500)):
    windows = [
        jpeg.random_window(height, width, area, (0.5, 2.0), _rng(seed))
        for seed in range(300)
    ]
    found = [w[2] * w[3] / (height * width) for w in windows if w]
    assert found and area[0] <= min(found) and max(found) <= area[1]


def test_an_image_too_long_is_cut_in_the_middle():
  # No window of this aspect is nine tenths of it.
  assert jpeg.random_window(300, 600, (0.9, 1.0), (1, 1), _rng()) is None
  assert jpeg.random_window(10, 4000, (0.5, 1.0), (1, 1), _rng()) is None
  encoded = fake_tfds.encoded(fake_tfds.photo(12, 900), 'JPEG').getvalue()
  dataset = Imagenet2012(image_size=32, flip=False)
  np.testing.assert_array_equal(
      dataset.augment(encoded, _rng()), dataset.preprocess(encoded)
  )


def _rng(seed=0):
  return np.random.default_rng(seed)


def test_training_images_are_windows_and_flips():
  encoded = a_jpeg('landscape')
  dataset = Imagenet2012(image_size=48)
  flips = 0
  for seed in range(60):
    got = dataset.augment(encoded, _rng(seed))
    np.testing.assert_array_equal(got, dataset.augment(encoded, _rng(seed)))
    window = jpeg.random_window(375, 500, (0.08, 1), (3 / 4, 4 / 3), _rng(seed))
    x = (jpeg.decode(encoded, window, 48) - MEAN) / STD
    assert got.flags.c_contiguous  # a view is slow to stack
    flipped = np.allclose(got, x[:, ::-1], atol=1e-5)
    assert flipped or np.allclose(got, x, atol=1e-5)
    flips += flipped
  assert 15 < flips < 45
  plain = Imagenet2012(image_size=48, flip=False)
  window = jpeg.random_window(375, 500, (0.08, 1), (3 / 4, 4 / 3), _rng())
  x = (jpeg.decode(encoded, window, 48) - MEAN) / STD
  np.testing.assert_allclose(plain.augment(encoded, _rng()), x, atol=1e-5)


@pytest.mark.parametrize(
    'content, says',
    [
        (b'', 'not a JPEG'),
        (b'GIF89a and so on', 'not a JPEG'),
        (a_jpeg('odd')[:2000], 'cannot be decoded'),
    ],
    ids=['empty', 'another format', 'cut off'],
)
def test_a_broken_image_is_named(content, says):
  with pytest.raises(ValueError, match=says) as caught:
    Imagenet2012().preprocess(content)
  for name in ('{{', '[Op:'):  # of functions inside of TensorFlow
    assert name not in str(caught.value)


@pytest.mark.parametrize(
    'fields, says',
    [
        ({'image_size': 0}, 'image_size is 0'),
        ({'padding': -1}, 'padding -1'),
        ({'area': (0.5, 0.1)}, r'area is \(0\.5, 0\.1\)'),
        ({'area': (0.0, 1.0)}, r'area is \(0\.0, 1\.0\)'),
        ({'area': (0.5, 1.5)}, r'area is \(0\.5, 1\.5\)'),
        ({'area': (0.01, 0.05)}, r'area is \(0\.01, 0\.05\).*than 0\.1'),
        ({'aspect': (-1, 1)}, r'aspect is \(-1, 1\)'),
    ],
)
def test_wrong_fields(fields, says):
  with pytest.raises(ValueError, match=says):
    Imagenet2012(**fields)


def test_what_is_known_without_the_data():
  dataset = Imagenet2012(image_size=96)
  assert dataset.input_spec.shape == (96, 96, 3)
  assert dataset.likelihood == Categorical(1000)


@dataclasses.dataclass(frozen=True)
class Torn(Imagenet2012):
  """Its image 1 is none."""

  def load(self, split):
    x = np.array([a_jpeg('tiny'), b'GIF89a', a_jpeg('odd')], object)
    return ArraySource(x, np.arange(3))


@pytest.mark.parametrize('workers', [0, slow(1)])
def test_the_loader_says_which_image_is_broken(workers):
  said = r'id 1 of Torn\(.*: not a JPEG(.|\n)*Repair this example'
  with pytest.raises(ValueError, match=said):
    next(train_batches(Torn(image_size=32), batch_size=3, workers=workers))
  with pytest.raises(ValueError, match=said):
    next(eval_batches(Torn(image_size=32), 'test', batch_size=3))


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('tfds'))
  fake_tfds.imagenet(path, n_train=9, n_test=5)
  return path


def test_splits_and_their_order(data_dir):
  dataset = Imagenet2012(data_dir=data_dir, image_size=32)
  assert len(dataset.load('train')) == 9
  first, last = eval_batches(dataset, 'test', batch_size=4)
  assert first.x.shape == (4, 32, 32, 3)
  assert first.id.tolist() + last.id.tolist() == [0, 1, 2, 3, 4, -1, -1, -1]
  assert last.mask.tolist() == [1, 0, 0, 0]
  source = dataset.load('test')
  for i in range(4):
    x = dataset.preprocess(source[i]['x'])
    np.testing.assert_array_equal(first.x[i], x)
    assert first.y[i] == source[i]['y']
  held = {'holdout': 1 / 3}
  assert sizes(dataset, **held) == [6, 3, 5]
  (part,) = eval_batches(dataset, 'validation', batch_size=3, **held)
  assert np.isfinite(part.x).all()


def test_a_part_of_a_split(data_dir):
  whole = Imagenet2012(data_dir=data_dir).load('train')
  part = Imagenet2012(data_dir=data_dir, train_split='train[6:]')
  source = part.load('train')
  assert len(source) == 3
  assert all(source[i]['x'] == whole[6 + i]['x'] for i in range(3))
  absent = Imagenet2012(data_dir=data_dir, test_split='test')
  with pytest.raises(
      ValueError,
      match=r"^test_split is 'test'.*\['train', 'validation'\]",
  ):
    absent.load('test')


@pytest.mark.slow
def test_workers_read_the_same_training_images(data_dir):
  dataset = Imagenet2012(data_dir=data_dir, image_size=32)
  streams = [
      train_batches(dataset, batch_size=4, seed=3, workers=workers)
      for workers in (0, 1)
  ]
  for _ in range(3):
    a, b = map(next, streams)
    np.testing.assert_array_equal(a.id, b.id)
    np.testing.assert_array_equal(a.x, b.x)


def test_missing_data_say_how_to_prepare_them(tmp_path):
  dataset = Imagenet2012(data_dir=str(tmp_path))
  with pytest.raises(ValueError, match='not prepared') as caught:
    train_batches(dataset, batch_size=1, seed=0)
  said = str(caught.value)
  for part in (
      'check data_dir',
      "tfds.builder('imagenet2012",
      "file_format='array_record').download_and_prepare()",
      'docs/imagenet.md',
  ):
    assert part in said, part


def test_tensorflow_gets_one_thread_and_no_accelerator(monkeypatch):
  tf = jpeg.tensorflow()
  given = {}
  monkeypatch.setattr(
      tf.config,
      'set_visible_devices',
      lambda devices, kind: given.update({kind: devices}),
  )
  for kind in ('intra', 'inter'):
    monkeypatch.setattr(
        tf.config.threading,
        f'set_{kind}_op_parallelism_threads',
        lambda threads, kind=kind: given.update({kind: threads}),
    )
  jpeg.tensorflow.cache_clear()
  assert jpeg.tensorflow() is tf
  assert given == {'GPU': [], 'intra': 1, 'inter': 1}


@pytest.mark.slow
def test_tensorflow_that_was_used_before_is_left_alone():
  code = (
      'import tensorflow as tf; tf.constant(1) + 1\n'
      'from flax_enn.data import jpeg\n'
      'assert jpeg.tensorflow() is tf'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_missing_tensorflow(data_dir, monkeypatch):
  jpeg.tensorflow.cache_clear()
  monkeypatch.setitem(sys.modules, 'tensorflow', None)
  with pytest.raises(ModuleNotFoundError, match=r"install 'flax_enn\[train\]'"):
    Imagenet2012(data_dir=data_dir).load('test')
