"""Any set of images for classification that TensorFlow Datasets knows."""

import dataclasses
import difflib
import errno
import functools
import re
from typing import Any, ClassVar

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, Element
from flax_enn.data.preprocess import Pixels
from flax_enn.likelihoods import Categorical

# What ArrayRecord says where the system, and not the file, is at fault.
_CALL_FAILED = re.compile(r'\w+\(\) failed: ')


@dataclasses.dataclass(frozen=True)
class TfdsImages(Dataset):
  """Images scaled to [0, 1], read from ArrayRecord files without TensorFlow.

  The set must have been prepared in that format, by `tfds.builder(NAME,
  file_format='array_record').download_and_prepare()`.

  Attributes:
    tfds_name: as in `tfds.builder`: `'cifar10'`, `'imagenet2012:5.1.0'` …
    data_dir: where it was prepared; None for TFDS's own default.
    train_split: what is served as `'train'`, such as `'train[:80%]'`.
    test_split: what is served as `'test'`.
    resize: (height, width) that images are brought to, cut at the centre to
      keep their proportions; None where all have the same size.
  """

  tfds_name: str
  data_dir: str | None = None
  train_split: str = 'train'
  test_split: str = 'test'
  resize: tuple[int, int] | None = None

  learns: ClassVar[bool] = True

  @functools.cached_property
  def builder(self) -> Any:
    """The `tfds.core.DatasetBuilder`, checked to be prepared."""
    return load_builder(self.tfds_name, self.data_dir)

  @property
  def likelihood(self) -> Categorical:
    return Categorical(self._features[1].num_classes)

  @property
  def class_names(self) -> tuple[str, ...]:
    return tuple(self._features[1].names)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    size = self._features[0].shape
    shape = (*(self.resize or size[:2]), size[2])
    if None in shape:
      raise ValueError(
          f'the images of tfds_name {self.tfds_name!r} vary in size ({size});'
          ' set resize to (height, width)'
      )
    return jax.ShapeDtypeStruct(shape, np.float32)

  @property
  def preprocess(self) -> Pixels:
    return Pixels(self.input_spec.shape, resize=self.resize is not None)

  @property
  def _features(self) -> tuple[Any, Any]:
    """The features that are the image and its label."""
    features = self.builder.info.features
    return tuple(features[key] for key in self._keys)

  @property
  def _keys(self) -> tuple[str, str]:
    """Their names."""
    import tensorflow_datasets as tfds

    features = self.builder.info.features
    found = [
        [key for key, feature in features.items() if isinstance(feature, kind)]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    ]
    if [len(keys) for keys in found] != [1, 1]:
      raise ValueError(
          f'tfds_name {self.tfds_name!r} has the features {sorted(features)};'
          ' expected exactly one image and one class label'
      )
    return found[0][0], found[1][0]

  def load(self, split: str) -> 'EncodedSource':
    image, label = self._keys
    names = {'train': self.train_split, 'test': self.test_split}
    records = open_split(self.builder, split, names[split], image)
    return EncodedSource(records, image, label)


@dataclasses.dataclass(frozen=True, eq=False)
class EncodedSource:
  """Records of TFDS as encoded images with their labels.

  Attributes:
    records: source of examples.
    image: name of the feature that holds the image.
    label: name of the feature that holds its class.
  """

  records: Any
  image: str = 'image'
  label: str = 'label'

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Element:
    try:
      record = self.records[index]
      return {'x': record[self.image], 'y': np.int32(record[self.label])}
    except RuntimeError as e:  # of ArrayRecord, all of whose errors are
      if _CALL_FAILED.search(str(e)):
        raise OSError(errno.EIO, f'record {index} cannot be read: {e}') from e
      raise ValueError(f'its record is damaged: {e}') from e
    except (OSError, ImportError, MemoryError):
      raise
    except Exception as e:  # of the parser, or of what lacks a field
      raise ValueError(f'its record is damaged or of another set: {e}') from e


def load_pixels(
    name: str, data_dir: str | None, preprocess: Pixels, see: str = ''
) -> dict[str, ArraySource]:
  """Decodes the splits `train` and `test` of a small data set into memory.

  Args:
    name: as in `tfds.builder`, with the features `image` and `label`.
    data_dir: where TFDS prepared it.
    preprocess: decodes an image, to bytes of its shape.
    see: as in `load_builder`.
  """
  builder, splits = load_builder(name, data_dir, see), {}
  for split in ('train', 'test'):
    source = EncodedSource(open_split(builder, split, split))
    x = np.zeros((len(source), *preprocess.shape), np.uint8)
    y, bad = np.zeros(len(source), np.int32), {}
    for i in range(len(source)):
      try:
        element = source[i]
        x[i], y[i] = preprocess.pixels(element['x']), element['y']
      except ValueError as e:
        bad[i] = str(e)
    splits[split] = ArraySource(x, y, unreadable=bad)
  return splits


def open_split(
    builder: Any, split: str, name: str, image: str = 'image'
) -> Any:
  """Reads a split of a prepared data set, with images as the files they were.

  Args:
    builder: see `load_builder`.
    split: `'train'` or `'test'`.
    name: what TFDS calls it.
    image: name of the feature that is the image.

  Raises:
    ValueError: the data set has no such split.
  """
  import tensorflow_datasets as tfds

  try:
    return builder.as_data_source(
        name, decoders={image: tfds.decode.SkipDecoding()}
    )
  except (KeyError, ValueError) as e:
    raise ValueError(
        f'{split}_split is {name!r}, which'
        f' {builder.info.full_name!r} does not have; its splits are'
        f' {sorted(builder.info.splits)}'
    ) from e


def load_builder(name: str, data_dir: str | None, see: str = '') -> Any:
  """Finds the builder of a data set that TFDS prepared as ArrayRecord files.

  Args:
    name: as in `tfds.builder`.
    data_dir: where to look; None for TFDS's own default.
    see: where to read more on how to prepare it.

  Raises:
    ValueError: there is none of that name, or none in ArrayRecord files.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=data_dir)
  except tfds.core.DatasetNotFoundError as e:
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(name, known, n=3)
    raise ValueError(
        f'tfds_name is {name!r}, which TensorFlow Datasets does'
        f' not know and does not find in {data_dir or "its default folder"};'
        f' names close to it: {close or "none"}'
    ) from e
  except (AssertionError, ValueError) as e:
    # Its ways of saying that there is no such version or configuration.
    raise ValueError(f'tfds_name is {name!r}: {e}') from e
  info = builder.info
  formats = [info.file_format, *info.alternative_file_formats]
  formats = [f.value for f in formats if f and builder.is_prepared()]
  if 'array_record' in formats:
    return builder
  if formats:
    state = f'prepared as {formats[0]}'
    how = (
        'convert it in its place, once, with\n'
        f'  tfds convert_format --dataset_version_dir={builder.data_dir}'
        ' --out_file_format=array_record'
    )
  else:
    state = 'not prepared'
    how = (
        'prepare it as array_record, once, with\n'
        '  import tensorflow_datasets as tfds\n'
        f'  tfds.builder({name!r}, data_dir={data_dir!r},'
        " file_format='array_record').download_and_prepare()"
    )
  raise ValueError(
      f'the data set {name!r} is {state} in {builder.data_dir}; check data_dir'
      f' ({data_dir!r}), or {how}'
      + (f'\n{see}' if see else '')
  )
