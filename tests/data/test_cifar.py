"""CIFAR-10 and CIFAR-100, prepared by TFDS with random pixels."""

import io

import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from flax_enn.data.cifar10 import Cifar10
from flax_enn.data.cifar100 import Cifar100
from flax_enn.likelihoods import Categorical
from tests import slow
from tests.data import fake_tfds
from tests.data.reading import eval_batches, sizes, train_batches

SETS = {'cifar10': Cifar10, 'cifar100': Cifar100}
# Of the training images; see enn/datasets/cifar.py.
MEAN = np.array([0.49139968, 0.48215841, 0.44653091])
STD = np.array([0.24703223, 0.24348513, 0.26158784])


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('tfds'))
  for name in SETS:
    fake_tfds.cifar(name, path)
  return path


def stored(name, data_dir, split):
  """Pixels and labels as TFDS gives them, normalised by hand."""
  source = tfds.builder(name, data_dir=data_dir).as_data_source(
      split, decoders={'image': tfds.decode.SkipDecoding()}
  )
  pixels = np.stack([
      np.asarray(Image.open(io.BytesIO(record['image']))) for record in source
  ])
  labels = [int(record['label']) for record in source]
  return (pixels / 255 - MEAN) / STD, labels


def test_what_is_known_without_the_data():
  for dataset, classes in ((Cifar10(), 10), (Cifar100(), 100)):
    assert dataset.input_spec.shape == (32, 32, 3)
    assert dataset.likelihood == Categorical(classes)
  changes = [(d.padding, d.flip, d.cutout) for d in (Cifar10(), Cifar100())]
  assert changes == [(4, True, 0), (4, True, 16)]


@pytest.mark.parametrize('name', SETS)
def test_evaluation_sees_normalised_images_in_order(name, data_dir):
  x, y = stored(name, data_dir, 'test')
  batches = list(
      eval_batches(SETS[name](data_dir=data_dir), 'test', batch_size=4)
  )
  assert [batch.mask.sum() for batch in batches] == [4, 4, 2]
  found = np.concatenate([batch.x for batch in batches])[:10]
  assert found.dtype == np.float32
  np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-6)
  labels = np.concatenate([batch.y for batch in batches])[:10]
  assert labels.tolist() == y


@pytest.mark.parametrize(
    'name, workers',
    [
        ('cifar10', 0),
        slow('cifar10', 1),
        slow('cifar100', 1),
        slow('cifar100', 0),
    ],
)
def test_training_sees_windows_of_padded_images(name, workers, data_dir):
  x, y = stored(name, data_dir, 'train')
  dataset = SETS[name](data_dir=data_dir, cutout=0)
  stream = train_batches(dataset, batch_size=32, seed=0, workers=workers)
  batch = next(stream)
  assert sorted(batch.id) == list(range(32))
  padded = np.pad(x, ((0, 0), (4, 4), (4, 4), (0, 0)))
  flips = 0
  for image, label, i in zip(batch.x, batch.y, batch.id):
    assert label == y[i]
    windows = {
        (top, left, flip): padded[i, top : top + 32, left : left + 32][
            :, :: -1 if flip else 1
        ]
        for top in range(9)
        for left in range(9)
        for flip in (False, True)
    }
    (place,) = [
        k for k, v in windows.items() if np.allclose(v, image, atol=1e-5)
    ]
    flips += place[2]
  assert 4 < flips < 28


@pytest.mark.parametrize('flip', [False, True])
@pytest.mark.parametrize('cutout', [0, 16])
def test_every_change_can_be_chosen(flip, cutout, data_dir):
  x, _ = stored('cifar100', data_dir, 'train')
  dataset = Cifar100(data_dir=data_dir, padding=0, flip=flip, cutout=cutout)
  batch = next(train_batches(dataset, batch_size=32, seed=0))
  cut = (batch.x == 0).all(-1)
  assert set(cut.sum(axis=(1, 2))) == {0, cutout**2}
  unflipped = np.isclose(batch.x, x[batch.id], atol=1e-5).all(-1) | cut
  mirrored = np.isclose(batch.x, x[batch.id][:, :, ::-1], atol=1e-5).all(-1)
  kept, mirrored = (m.all(axis=(1, 2)) for m in (unflipped, mirrored | cut))
  assert (kept ^ mirrored).all() and mirrored.any() == flip and kept.any()


def test_enns_crops_are_windows_in_training_and_the_middle_elsewhere(data_dir):
  x, _ = stored('cifar10', data_dir, 'train')
  dataset = Cifar10(data_dir=data_dir, flip=False, crop=24)
  assert dataset.input_spec.shape == (24, 24, 3)
  batch = next(train_batches(dataset, batch_size=32, seed=0))
  places = set()
  for image, i in zip(batch.x, batch.id):
    (place,) = [
        (top, left)
        for top in range(9)
        for left in range(9)
        if np.allclose(x[i, top : top + 24, left : left + 24], image, atol=1e-5)
    ]
    places.add(place)
  assert len(places) > 16
  x, _ = stored('cifar10', data_dir, 'test')
  batch = next(eval_batches(dataset, 'test', batch_size=10))
  np.testing.assert_allclose(batch.x, x[:, 4:28, 4:28], rtol=1e-5, atol=1e-6)


def test_a_part_is_held_out(data_dir):
  assert sizes(Cifar10(data_dir=data_dir), holdout=0.25) == [24, 8, 10]


@pytest.mark.parametrize('name', SETS)
def test_missing_data(name, tmp_path):
  dataset = SETS[name](data_dir=str(tmp_path))
  with pytest.raises(
      ValueError,
      match=rf"'{name}:3\.\*\.\*' is not prepared in (.|\n)*"
      rf"check data_dir(.|\n)*tfds\.builder\('{name}:3",
  ):
    eval_batches(dataset, 'test', batch_size=1)


@pytest.mark.parametrize('field', ['padding', 'cutout'])
@pytest.mark.parametrize('value', [-1, 33])
def test_wrong_numbers(field, value):
  with pytest.raises(ValueError, match=rf'^{field} is {value}'):
    Cifar10(**{field: value})


@pytest.mark.parametrize(
    'fields', [{'crop': 0}, {'crop': 33}, {'crop': 8, 'cutout': 9}]
)
def test_wrong_crops(fields):
  with pytest.raises(ValueError, match=rf'^crop is {fields["crop"]}'):
    Cifar10(**fields)
