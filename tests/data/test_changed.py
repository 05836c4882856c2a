"""Data sets that change another: which examples, and what becomes of them."""

import dataclasses
import pickle

import jax
import numpy as np
from PIL import Image
import pytest

from flax_enn import build, kinds
from flax_enn.data import ArraySource, Pixels
from flax_enn.data.arrays import Arrays
from flax_enn.data.base import Dataset
from flax_enn.data.corrupted import Corrupted
from flax_enn.data.fake import Fake
from flax_enn.data.held_out_classes import HeldOutClasses
from flax_enn.data.image_preprocess import CentralCrop, PerImage
from flax_enn.data.regression import Regression
from flax_enn.data.repeated import Repeated
from flax_enn.data.replaced_train import ReplacedTrain
from flax_enn.data.standardized_images import StandardizedImages
from flax_enn.data.toy_moons import ToyMoons
from flax_enn.data.two_moons import TwoMoons
from flax_enn.likelihoods import Categorical
from tests.data.fake_tfds import encoded, photo
from tests.data.reading import eval_batches, everything, train_batches


@dataclasses.dataclass(frozen=True)
class Photos(Dataset):
  """Small photos of five classes, as bytes or as files."""

  files: bool = False

  @property
  def input_spec(self):
    return jax.ShapeDtypeStruct((12, 10, 3), np.float32)

  @property
  def likelihood(self):
    return Categorical(5)

  @property
  def preprocess(self):
    return Pixels((12, 10, 3))

  def load(self, split):
    n = 60 if split == 'train' else 20
    x = np.stack([photo(12, 10, seed=i) for i in range(n)])
    y = np.arange(n, dtype=np.int32) % 5
    if self.files:
      x = [encoded(image, 'PNG').read() for image in x]
      return [{'x': a, 'y': b} for a, b in zip(x, y)]
    return ArraySource(x, y, weight=np.arange(n, dtype=np.float32))


def images(dataset, split):
  return everything(dataset, split)[0]


def same(found, expected, split):
  np.testing.assert_array_equal(
      images(found, split), images(expected, split)
  )


@pytest.mark.parametrize('files', [False, True])
def test_held_out_classes(files):
  photos = Photos(files=files)
  whole, y, _ = everything(photos, 'test')
  for test, expected in {
      'whole': [0, 1, 2, 3, 4], 'in': [0, 2, 4], 'out': [1, 3],
  }.items():  # fmt: skip
    dataset = HeldOutClasses(photos, classes=(1, 3), test=test)
    x, labels, _ = everything(dataset, 'test')
    assert sorted(set(labels)) == expected
    np.testing.assert_array_equal(x, whole[np.isin(y, expected)])
    assert dataset.likelihood == Categorical(5)
  _, labels, _ = everything(dataset, 'train')
  assert sorted(set(labels)) == [0, 2, 4]  # a thousandth of 36 is none


def test_some_examples_of_classes_held_out_stay_in_training():
  dataset = HeldOutClasses(Photos(), classes=(0,), train_share=0.1)
  _, labels, _ = everything(dataset, 'train')
  assert (len(labels), np.sum(labels == 0)) == (48 + 5, 5)
  # With their weights, and in the order of the data set.
  source = dataset.load('train')
  assert isinstance(source, ArraySource)
  assert (np.diff(source.weight) > 0).all()


def test_held_out_classes_are_drawn_as_in_enn():
  dataset = HeldOutClasses(Photos(), fraction=0.4)
  rng = np.random.default_rng(321)
  drawn = rng.choice(range(5), size=(2,), replace=False)
  assert dataset.held_out == tuple(drawn)
  # enn leaves all examples in where class 0 alone is held out.
  zero = HeldOutClasses(Photos(), classes=(0,), test='out')
  assert set(everything(zero, 'test')[1]) == {0}


@pytest.mark.parametrize(
    'options, found',
    [
        ({'classes': (99,)}, r'classes .*holds out \(99,\)'),
        ({'classes': (1, -1)}, r'classes .*holds out \(1, -1\)'),
        ({'classes': ()}, r'classes .*holds out \(\)'),
        ({'classes': range(5)}, r'classes .*holds out \(0, 1, 2, 3, 4\)'),
        ({'fraction': 0.19}, r'fraction is 0.19, which holds out \(\)'),
    ],
)
def test_some_classes_are_held_out_and_not_all(options, found):
  with pytest.raises(ValueError, match=f'{found} of the classes 0 to 4'):
    HeldOutClasses(Photos(), **options).load('train')


def test_a_regression_has_no_classes_to_hold_out():
  with pytest.raises(ValueError, match=r'Gaussian.*, which has no classes'):
    HeldOutClasses(Regression(), classes=(1,)).load('train')


@pytest.mark.parametrize(
    'kind, options, says',
    [
        (Repeated, {'limit': 0}, 'limit is 0; it must be above 0'),
        (Repeated, {'limit': -3}, 'limit is -3; it must be above 0'),
        (Corrupted, {'seed': -1}, 'seed is -1; it must be at least 0'),
        (HeldOutClasses, {'seed': -1}, 'seed is -1; it must be at least 0'),
    ],
)
def test_numbers_that_are_too_small(kind, options, says):
  with pytest.raises(ValueError, match=says):
    kind(Photos(), **options)


@pytest.mark.parametrize('files', [False, True])
def test_views_of_an_example_are_neighbours(files):
  dataset = Repeated(Photos(files=files), times=3, crop=2, limit=50)
  plain, y, _ = everything(Photos(), 'test')
  x, labels, _ = everything(dataset, 'test')
  assert x.shape == (50, 12, 10, 3)
  np.testing.assert_array_equal(labels, np.repeat(y, 3)[:50])
  for i in range(50):
    near, far = (
        min(np.abs(x[i] - v).mean(), np.abs(x[i] - v[:, ::-1]).mean())
        for v in (plain[i // 3], plain[(i // 3 + 7) % 20])
    )
    assert 0 < near < far
  assert not np.array_equal(x[0], x[1])
  np.testing.assert_array_equal(images(dataset, 'test'), x)
  same(dataset, Photos(), 'train')


def test_a_view_is_a_window_that_is_brought_back_to_size():
  dataset = Repeated(Photos(), times=1, crop=4, flip=False)
  x = Photos().load('test').x[0]
  windows = [
      np.asarray(
          Image.fromarray(x[top : top + 8, left : left + 6]).resize(
              (10, 12), Image.Resampling.BICUBIC
          )
      )
      for top in range(5)
      for left in range(5)
  ]
  found = dataset.load('test')[0]['x']
  assert any(np.array_equal(found, window) for window in windows)


def test_repeated_inputs_of_any_form():
  moons = TwoMoons(n_test=4)
  dataset = Repeated(moons, times=2, crop=0, flip=False)
  x = images(moons, 'test')
  np.testing.assert_array_equal(images(dataset, 'test'), np.repeat(x, 2, 0))
  with pytest.raises(ValueError, match='set crop to 0 and flip to False'):
    Repeated(moons).load('test')[0]


@dataclasses.dataclass(frozen=True)
class Shaken:
  """Adds normal noise, in place."""

  scale: float = 0.01

  def __call__(self, x, rng):
    x += self.scale * rng.normal(size=x.shape)
    return x


def test_inputs_of_any_form_are_perturbed_by_a_function():
  moons = TwoMoons(n_test=4)
  section = {
      'name': 'repeated',
      'times': 3,
      'dataset': {'name': 'two_moons', 'n_test': 4},
      'perturb': {'name': f'{__name__}:Shaken', 'scale': 0.02},
  }
  dataset = build.build(section, kinds.DATASET, 'config.dataset')
  assert dataset == Repeated(moons, times=3, perturb=Shaken(0.02))
  plain, y, _ = everything(moons, 'test')
  x, labels, _ = everything(dataset, 'test')
  np.testing.assert_array_equal(labels, np.repeat(y, 3))
  shifts = np.abs(x - np.repeat(plain, 3, 0))
  assert shifts.min() > 0 and shifts.max() < 0.1  # also the first view
  assert len(np.unique(x, axis=0)) == 12
  same(pickle.loads(pickle.dumps(dataset)), dataset, 'test')
  source = dataset.load('test')
  np.testing.assert_array_equal([source[7]['x'], source[7]['x']], x[[7, 7]])
  other = dataclasses.replace(dataset, seed=1)
  assert not np.array_equal(images(other, 'test'), x)
  # float64 comes back as float32, or the batch would not fit the spec.
  wide = Repeated(moons, perturb=lambda x, rng: x + rng.normal(size=2))
  assert images(wide, 'test').dtype == np.float32
  same(dataset, moons, 'train')


@pytest.mark.parametrize('files', [False, True])
def test_images_are_perturbed_after_they_are_cropped(files):
  def inverted(x, rng):
    del rng
    return 255 - x

  photos = Photos(files=files)
  for options in ({'crop': 0, 'flip': False}, {'crop': 2, 'flip': True}):
    plain = images(Repeated(photos, **options), 'test')
    found = Repeated(photos, perturb=inverted, **options)
    np.testing.assert_allclose(images(found, 'test'), 1 - plain, atol=1e-6)
  # Alone, it comes instead of them.
  found = images(Repeated(photos, perturb=inverted), 'test')
  expected = np.repeat(images(photos, 'test'), 2, 0)
  np.testing.assert_allclose(found, 1 - expected, atol=1e-6)


@pytest.mark.parametrize('files', [False, True])
@pytest.mark.parametrize(
    'kind',
    ['gaussian_noise', 'shot_noise', 'gaussian_blur', 'contrast', 'brightness'],
)
def test_corruptions_grow_with_their_severity(kind, files):
  plain = images(Photos(), 'test')
  errors = []
  for severity in (1, 3, 5):
    dataset = Corrupted(Photos(files=files), kind=kind, severity=severity)
    x = images(dataset, 'test')
    assert x.min() >= 0 and x.max() <= 1
    errors.append(np.abs(x - plain).mean())
    np.testing.assert_array_equal(images(dataset, 'test'), x)
  assert 0 < errors[0] < errors[1] < errors[2]
  same(dataset, Photos(), 'train')


def test_a_blur_keeps_an_even_image():
  class Even(Photos):

    def load(self, split):
      x = np.full((2, 12, 10, 3), 77, np.uint8)
      return ArraySource(x, np.zeros(2, np.int32))

  found = Corrupted(Even(), kind='gaussian_blur', severity=5).load('test')
  assert (found[0]['x'] == 77).all()


def test_training_examples_of_another_set():
  train, test = ToyMoons(), TwoMoons(n_test=6)
  dataset = ReplacedTrain(test, train)
  same(dataset, train, 'train')
  same(dataset, test, 'test')
  with pytest.raises(ValueError, match='y must mean the same in both'):
    ReplacedTrain(test, Regression()).load('train')
  wide = Fake(shape=(3,), classes=2)
  with pytest.raises(ValueError, match=r'train has x .*\[3\] .*\[2\]; x must'):
    ReplacedTrain(test, wide).load('train')


@pytest.mark.parametrize('y', [[0, 1, 1, 0], [0, 0, 0, 0]])
def test_training_examples_are_arrays(y):
  """Also where the last class has no example."""
  x = np.arange(8.0).reshape(4, 2)
  dataset = ReplacedTrain(TwoMoons(n_test=6), (x, np.array(y)))
  found, labels, _ = everything(dataset, 'train')
  np.testing.assert_array_equal(found, x.astype(np.float32))
  np.testing.assert_array_equal(labels, y)
  same(dataset, TwoMoons(n_test=6), 'test')
  assert dataset.likelihood == Categorical(2)
  assert hash(dataset) and 'arrays of 4 examples' in repr(dataset)


def test_arrays_are_preprocessed_as_the_data_set_has_it():
  x = Photos().load('test').x
  dataset = ReplacedTrain(Photos(), (x, np.zeros(len(x), np.int64)))
  np.testing.assert_array_equal(
      images(dataset, 'train'), images(Photos(), 'test')
  )


@pytest.mark.parametrize(
    'train, says',
    [
        (([0, 2, 0],), 'train has y 2, but labels are 0 to 1 in dataset; .*1'),
        (([-1, -1, -1],), 'train has y -1, but labels are 0 to 1 in dataset'),
        (([[0.0], [1.0], [1.0]],), r'has y float32\[1\] and dataset Categ'),
        (([0, 1],), 'train has x of .* examples and y of shape'),
        ((), 'train is a ndarray; expected a data set, or a pair of arrays'),
    ],
)
def test_arrays_that_do_not_fit(train, says):
  x = np.zeros((3, 2))
  train = (x, np.array(*train)) if train else x
  with pytest.raises(ValueError, match=says):
    ReplacedTrain(TwoMoons(), train).load('train')


@pytest.mark.parametrize(
    'dataset',
    [
        HeldOutClasses(Photos(), classes=(1,)),
        Repeated(Photos()),
        Corrupted(Photos(files=True)),
        ReplacedTrain(Photos(), Photos(files=True)),
    ],
)
def test_changed_data_sets_are_read_like_others(dataset):
  batch = next(train_batches(dataset, batch_size=4))
  assert batch.x.shape == (4, 12, 10, 3)
  (batch, *_) = eval_batches(dataset, 'test', batch_size=4)
  assert batch.x.dtype == np.float32 and batch.mask.all()
  again = pickle.loads(pickle.dumps(dataset))
  same(again, dataset, 'test')
  assert not dataset.augments


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda: HeldOutClasses(Photos(), test='all'), "test is 'all'"),
        (lambda: HeldOutClasses(Photos(), fraction=1.0), r'fraction is 1\.0'),
        (lambda: HeldOutClasses(Regression()).held_out, 'has no classes'),
        (lambda: Corrupted(Photos(), kind='fog'), "kind is 'fog'; known"),
        (lambda: Corrupted(Photos(), severity=6), 'severity is 6'),
        (lambda: Corrupted(TwoMoons()).load('test')[0], 'for images of bytes'),
        (lambda: Repeated(Photos(), times=0), 'times is 0'),
        (lambda: Repeated(Photos(), crop=-1), 'crop is -1'),
        (lambda: Repeated(Photos(), perturb=3), 'perturb is 3; expected None'),
        (lambda: Repeated(Photos(), crop=10).load('test')[0], 'take fewer'),
        (lambda: ToyMoons(prob_swap=1.5), r'prob_swap is 1\.5'),
    ],
)
def test_wrong_fields(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_a_config_names_them():
  dataset = build.build(
      {
          'name': 'held_out_classes',
          'classes': (1,),
          'dataset': {'name': 'corrupted', 'dataset': {'name': 'two_moons'}},
      },
      kinds.DATASET,
      'config.dataset',
  )
  assert dataset == HeldOutClasses(Corrupted(TwoMoons()), classes=(1,))


def test_a_config_names_what_is_trained_on_instead():
  section = {
      'name': 'replaced_train',
      'dataset': {'name': 'two_moons'},
      'train': {'name': 'toy_moons'},
  }
  dataset = build.build(section, kinds.DATASET, 'config.dataset')
  assert dataset == ReplacedTrain(TwoMoons(), ToyMoons())
  arrays = np.zeros((3, 2)), np.zeros(3, np.int32)
  section = {**section, 'train': arrays}
  dataset = build.build(section, kinds.DATASET, 'config.dataset')
  np.testing.assert_array_equal(images(dataset, 'train'), arrays[0])
  section = {**section, 'train': 'mine.npz'}
  with pytest.raises(ValueError, match=r"^config\.dataset\.train is 'mine"):
    build.build(section, kinds.DATASET, 'config.dataset')


def test_images_that_are_standardized_by_themselves():
  """As tf.image.per_image_standardization has it."""
  x = photo(12, 10)
  found = PerImage(Pixels((12, 10, 3)))(x)
  scaled = np.float64(x) / 255
  np.testing.assert_allclose(
      found, (scaled - scaled.mean()) / scaled.std(), rtol=1e-4, atol=1e-5
  )
  even = PerImage(Pixels((12, 10, 3)))(np.full((12, 10, 3), 9, np.uint8))
  np.testing.assert_allclose(even, 0, atol=1e-6)


def test_any_images_can_be_standardized_by_themselves(tmp_path):
  x = np.stack([photo(12, 10, seed=i) for i in range(4)])
  parts = {f'{n}_{s}': v for s in ('train', 'test')
           for n, v in (('x', x), ('y', np.arange(4)))}  # fmt: skip
  np.savez(tmp_path / 'a.npz', **parts)
  arrays = Arrays(str(tmp_path / 'a.npz'), flip=True)
  dataset = StandardizedImages(arrays)
  expected = np.stack([PerImage(Pixels((12, 10, 3)))(image) for image in x])
  np.testing.assert_allclose(images(dataset, 'test'), expected, rtol=1e-6)
  batch = next(train_batches(dataset, batch_size=4))
  for image, i in zip(batch.x, batch.id):
    kept, mirrored = (
        np.allclose(image, e, atol=1e-5)
        for e in (expected[i], expected[i][:, ::-1])
    )
    assert kept or mirrored


@pytest.mark.parametrize(
    'preprocess',
    [
        PerImage(Pixels((12, 10, 3))),
        CentralCrop(Pixels((12, 10, 3)), (4, 3)),
    ],
)
def test_a_run_writes_its_preprocessing_down(preprocess):
  described = build.describe(preprocess)
  again = build.build(described, kinds.PREPROCESS, 'preprocess')
  assert again == preprocess
  np.testing.assert_array_equal(again(photo(12, 10)), preprocess(photo(12, 10)))
