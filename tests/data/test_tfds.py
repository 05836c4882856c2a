"""The bundled digits, and any prepared set of TensorFlow Datasets."""

import itertools
import json
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flax_enn.data.digits import Digits
from flax_enn.data.tfds_images import TfdsImages
from flax_enn.likelihoods import Categorical
from tests.data.reading import (
    eval_batches,
    everything,
    sizes,
    train_batches,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('tfds'))
  Digits(data_dir=path).load('train')
  return path


def test_digits_are_those_of_sklearn(data_dir):
  from sklearn.datasets import load_digits

  raw = load_digits()
  dataset = Digits(data_dir=data_dir)
  found = []
  for split, size in (('train', 1437), ('test', 360)):
    x, y, ids = everything(dataset, split)
    assert x.shape == (size, 8, 8, 1) and x.dtype == np.float32
    assert x.min() == 0 and x.max() == 1
    assert ids.tolist() == list(range(size))
    share = np.bincount(y) / np.bincount(raw.target)
    np.testing.assert_allclose(share, size / 1797, atol=0.01)
    pixels = np.ceil(x * 255 / 16).astype(int).reshape(size, -1)
    found += [(*p, label) for p, label in zip(pixels.tolist(), y.tolist())]
  expected = zip(raw.data.astype(int).tolist(), raw.target.tolist())
  assert sorted(found) == sorted((*p, label) for p, label in expected)


def test_digits_come_in_no_order_of_class(data_dir):
  """Neighbours are pairs of a joint prediction."""
  _, y, _ = everything(Digits(data_dir=data_dir), 'test')
  same = np.mean(y[::2] == y[1::2])
  assert 0.03 < same < 0.2
  assert not 0.03 < np.mean(np.sort(y)[::2] == np.sort(y)[1::2]) < 0.2


def test_digits_are_the_same_when_prepared_again(data_dir, tmp_path):
  again = Digits(data_dir=str(tmp_path))
  for split in ('train', 'test'):
    for a, b in zip(
        everything(again, split),
        everything(Digits(data_dir=data_dir), split),
    ):
      np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_digits_need_no_tensorflow_and_no_lock(tmp_path):
  """Several processes prepare at once; none may load TensorFlow."""
  program = f"""
import sys
from flax_enn.data.digits import Digits
source = Digits(data_dir={str(tmp_path)!r}).load('train')
total = sum(float(source[i]['x'].sum()) for i in range(len(source)))
print('result', len(source), round(total), 'tensorflow' in sys.modules)
"""
  processes = [
      subprocess.Popen(
          [sys.executable, '-c', program],
          cwd=ROOT,
          stdout=subprocess.PIPE,
          stderr=subprocess.PIPE,
          text=True,
      )
      for _ in range(2)
  ]
  outputs = [process.communicate(timeout=300) for process in processes]
  results = {out.strip().splitlines()[-1] for out, err in outputs if out or err}
  assert [p.returncode for p in processes] == [0] * 2, outputs
  (result,) = results
  assert result.startswith('result 1437 ') and result.endswith('False')
  left = [p.name for p in (tmp_path / 'sklearn_digits').iterdir()]
  assert left == ['1.0.0']


def test_digits_name_a_folder_they_cannot_write(tmp_path):
  (tmp_path / 'file').write_text('not a folder')
  path = str(tmp_path / 'file')
  with pytest.raises(ValueError, match=r'^data_dir is'):
    Digits(data_dir=path).load('train')


def test_tfds_images_read_what_is_prepared(data_dir):
  dataset = TfdsImages(tfds_name='sklearn_digits', data_dir=data_dir)
  assert dataset.likelihood == Categorical(10)
  assert dataset.input_spec.shape == (8, 8, 1)
  assert dataset.class_names == tuple('0123456789')
  for a, b in zip(
      everything(dataset, 'test'),
      everything(Digits(data_dir=data_dir), 'test'),
  ):
    np.testing.assert_array_equal(a, b)


def test_tfds_images_resize_and_take_parts(data_dir):
  dataset = TfdsImages(
      tfds_name='sklearn_digits:1.0.0',
      data_dir=data_dir,
      train_split='train[:50%]',
      resize=(4, 6),
  )
  assert dataset.input_spec.shape == (4, 6, 1)
  train, validation, test = sizes(dataset, holdout=0.25)
  assert abs(train + validation - 1437 / 2) <= 1 and test == 360
  x, _, _ = everything(dataset, 'test')
  assert x.shape == (360, 4, 6, 1) and 0 <= x.min() < x.max() <= 1
  # A resized image keeps the brightness of what it was cut from.
  whole, _, _ = everything(Digits(data_dir=data_dir), 'test')
  np.testing.assert_allclose(x.mean(), whole[:, 1:7].mean(), atol=0.03)


def test_tfds_images_travel_to_workers(data_dir):
  dataset = TfdsImages(tfds_name='sklearn_digits', data_dir=data_dir)
  assert dataset.input_spec.shape == (8, 8, 1)  # what it has cached stays here
  kwargs = {'batch_size': 32, 'seed': 0}
  streams = [
      itertools.islice(train_batches(dataset, workers=w, **kwargs), 2)
      for w in (0, 1)
  ]
  for a, b in zip(*streams):
    np.testing.assert_array_equal(a.id, b.id)
    np.testing.assert_array_equal(a.x, b.x)


@pytest.mark.parametrize(
    'fields, message',
    [
        (
            {'tfds_name': 'mnistt'},
            r"^tfds_name is 'mnistt'.*close.*'mnist'",
        ),
        (
            {'tfds_name': 'mnist'},
            r"data set 'mnist' is not prepared in (.|\n)*array_record(.|\n)*"
            r"tfds\.builder\('mnist', .*download_and_prepare\(\)",
        ),
        (
            {'tfds_name': 'mnist:9.9.9'},
            r"^tfds_name is 'mnist:9\.9\.9': .*9\.9\.9",
        ),
        (
            {'tfds_name': 'sklearn_digits', 'test_split': 'validation'},
            r"^test_split is 'validation'.*\['test', 'train'\]",
        ),
    ],
)
def test_tfds_images_errors(fields, message, data_dir):
  dataset = TfdsImages(data_dir=data_dir, **fields)
  with pytest.raises(ValueError, match=message):
    eval_batches(dataset, 'test', batch_size=1)


def edited(data_dir, tmp_path, file, change):
  """A copy of the prepared digits that describes itself otherwise."""
  shutil.copytree(data_dir, tmp_path / 'tfds')
  path = tmp_path / 'tfds' / 'sklearn_digits' / '1.0.0' / file
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
  # With a version, TFDS believes the files rather than the builder.
  return TfdsImages(
      tfds_name='sklearn_digits:1.0.0', data_dir=str(tmp_path / 'tfds')
  )


def test_tfds_images_need_array_record(data_dir, tmp_path):
  dataset = edited(
      data_dir,
      tmp_path,
      'dataset_info.json',
      lambda info: info.update(fileFormat='tfrecord'),
  )
  said = r'prepared as tfrecord (.|\n)*tfds convert_format .*array_record'
  with pytest.raises(ValueError, match=said):
    dataset.load('test')


def test_tfds_images_converted_in_their_place(data_dir, tmp_path):
  """What `tfds convert_format` leaves: both formats in one folder."""
  dataset = edited(
      data_dir,
      tmp_path,
      'dataset_info.json',
      lambda info: info.update(
          fileFormat='tfrecord', alternativeFileFormats=['array_record']
      ),
  )
  source = dataset.load('test')
  assert len(source) == 360
  assert dataset.preprocess(source[0]['x']).shape == (8, 8, 1)


def test_tfds_images_that_vary_need_a_size(data_dir, tmp_path):
  def vary(features):
    image = features['featuresDict']['features']['image']['image']
    image['shape']['dimensions'][:2] = ['-1', '-1']

  dataset = edited(data_dir, tmp_path, 'features.json', vary)
  with pytest.raises(ValueError, match='set resize to'):
    eval_batches(dataset, 'test', batch_size=1)
