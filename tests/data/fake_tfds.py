"""Small data sets in the place of large ones, as TFDS itself prepares them."""

import io
from unittest import mock

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds


def encoded(pixels, format, **options):
  """The bytes of an image file with these pixels."""
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, format=format, **options)
  file.seek(0)
  return file


def photo(height, width, seed=0):
  """A smooth picture `[height, width, 3]` with some edges, of bytes."""
  rng = np.random.RandomState(seed)
  y, x = np.mgrid[0:1:height * 1j, 0:1:width * 1j]
  waves = [
      np.sin(rng.uniform(2, 9) * x + rng.uniform(2, 9) * y + rng.uniform(6))
      for _ in range(3)
  ]
  pixels = 127 + 100 * np.stack(waves, -1)
  top, left = rng.randint(height // 2 + 1), rng.randint(width // 2 + 1)
  pixels[top : top + height // 3, left : left + width // 3] = rng.randint(255)
  return pixels.astype(np.uint8)


def prepare(name, data_dir, splits, file_format='array_record'):
  """Prepares the set of this name with examples of our own.

  Args:
    name: as in `tfds.builder`.
    data_dir: where to.
    splits: split -> examples with the features of that set.
    file_format: of the files.
  """
  builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
  generators = {split: enumerate(v) for split, v in splits.items()}
  with mock.patch.object(
      type(builder), '_split_generators', lambda self, _: generators
  ):
    builder.download_and_prepare()
  return builder


def cifar(name, data_dir, n_train=32, n_test=10):
  """CIFAR with random pixels; returns what is in it, in the order of files."""
  classes = {'cifar10': 10, 'cifar100': 100}[name]
  rng = np.random.RandomState(0)

  def examples(split, n):
    for i in range(n):
      pixels = rng.randint(256, size=(32, 32, 3), dtype=np.uint8)
      label = int(rng.randint(classes))
      coarse = {'coarse_label': label // 5} if classes == 100 else {}
      yield {
          'id': f'{split}_{i:05}',
          'image': encoded(pixels, 'PNG'),
          'label': label,
          **coarse,
      }

  splits = {'train': n_train, 'test': n_test}
  return prepare(
      name, data_dir, {s: list(examples(s, n)) for s, n in splits.items()}
  )


def imagenet(data_dir, n_train=8, n_test=5, sides=(40, 90), **options):
  """ImageNet with a few photos of our own making, each of another size."""

  def examples(split, n, seed):
    rng = np.random.RandomState(seed)
    for i in range(n):
      height, width = rng.randint(*sides, size=2)
      yield {
          'file_name': f'{split}_{i:08}.JPEG',
          'image': encoded(photo(height, width, seed=i), 'JPEG'),
          'label': int(rng.randint(1000)),
      }

  splits = {'train': (n_train, 0), 'validation': (n_test, 1)}
  return prepare(
      'imagenet2012',
      data_dir,
      {s: list(examples(s, *v)) for s, v in splits.items()},
      **options,
  )
