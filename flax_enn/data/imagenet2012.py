"""ImageNet with enn's preprocessing. See docs/imagenet.md."""

import dataclasses
from typing import Any

import jax
import numpy as np

from flax_enn.data import jpeg
from flax_enn.data.base import Dataset
from flax_enn.data.tfds_images import (
    EncodedSource,
    load_builder,
    open_split,
)
from flax_enn.likelihoods import Categorical

NAME = 'imagenet2012:5.*.*'

# Of red, green and blue in [0, 255]; enn's numbers.
MEAN = np.array([0.485 * 255, 0.456 * 255, 0.406 * 255], np.float32)
STD = np.array([0.229 * 255, 0.224 * 255, 0.225 * 255], np.float32)


@dataclasses.dataclass(frozen=True)
class Imagenet2012(Dataset):
  """1,281,167 training and 50,000 test images of 1,000 classes.

  The test split is what ImageNet calls its validation set, whose labels are
  public. Channels have about mean 0 and deviation 1. All defaults are enn's.

  Attributes:
    data_dir: where TFDS prepared it as ArrayRecord files, a folder or a bucket;
      None for its own default.
    train_split: what is served as `'train'`, such as `'train[:1%]'` to try a
      run on a little of it.
    test_split: what is served as `'test'`.
    image_size: side of an image as the network sees it.
    padding: margin around the central crop of evaluation, both sides together,
      on an image brought to image_size + padding.
    area: least and largest area of a training crop, as a fraction.
    aspect: least and largest width over height of a training crop.
    flip: whether every other training image is mirrored.
  """

  data_dir: str | None = None
  train_split: str = 'train'
  test_split: str = 'validation'
  image_size: int = 224
  padding: int = 32
  area: tuple[float, float] = (0.08, 1.0)
  aspect: tuple[float, float] = (3 / 4, 4 / 3)
  flip: bool = True

  @property
  def likelihood(self) -> Categorical:
    return Categorical(1000)

  def __post_init__(self):
    if self.image_size < 1 or self.padding < 0:
      raise ValueError(
          f'image_size is {self.image_size} and padding {self.padding}; they'
          ' are numbers of pixels, at least 1 and 0'
      )
    for field, most in (('area', 1.0), ('aspect', np.inf)):
      low, high = getattr(self, field)
      if not 0 < low <= high <= most:
        raise ValueError(
            f'{field} is {(low, high)}; it is the least and the largest: above'
            f' 0, in this order, at most {most}'
        )
    if self.area[1] < jpeg.LEAST_AREA:
      raise ValueError(
          f'area is {self.area}, but training crops are never smaller than'
          f' {jpeg.LEAST_AREA}; set its second number to more'
      )

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(
        (self.image_size, self.image_size, 3), np.float32
    )

  def load(self, split: str) -> EncodedSource:
    """See `Dataset`; x is the bytes of a JPEG."""
    builder = load_builder(
        NAME, self.data_dir, see='docs/imagenet.md has every step.'
    )
    jpeg.tensorflow()  # raises here, and not in the first batch
    names = {'train': self.train_split, 'test': self.test_split}
    return EncodedSource(open_split(builder, split, names[split]))

  @property
  def preprocess(self) -> 'CentralCrop':
    return CentralCrop(self.image_size, self.padding)

  def augment(self, x: bytes, rng: np.random.Generator) -> np.ndarray:
    """A random crop, and a flip."""
    window = jpeg.random_window(*jpeg.shape(x), self.area, self.aspect, rng)
    if window is None:
      image = self.preprocess(x)
    else:
      image = normalised(jpeg.decode(x, window, self.image_size))
    return mirrored(image) if self.flip and rng.random() < 0.5 else image


@dataclasses.dataclass(frozen=True)
class CentralCrop:
  """The middle of an image, with channels of about mean 0 and deviation 1.

  Of the bytes of a JPEG, or of an image that was decoded already, for which it
  takes no TensorFlow.

  Attributes:
    image_size: side of the result.
    padding: margin around it, both sides together, on an image whose shorter
      side is image_size + padding.
  """

  image_size: int = 224
  padding: int = 32

  def __call__(self, x: Any) -> np.ndarray:
    """`[image_size, image_size, 3]` float32.

    Args:
      x: bytes of a JPEG, or `[H, W, 3]` uint8.

    Raises:
      ValueError: it is neither.
    """
    size = self.image_size
    if isinstance(x, bytes):
      window = jpeg.central_window(*jpeg.shape(x), size, self.padding)
      return normalised(jpeg.decode(x, window, size))
    x = np.asarray(x)
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[-1] != 3 or 0 in x.shape:
      raise ValueError(
          f'an image is {x.dtype}{list(x.shape)}; expected bytes uint8[H, W, 3]'
      )
    height, width, _ = x.shape
    window = jpeg.central_window(height, width, size, self.padding)
    return normalised(jpeg.resized(x, window, size))


def normalised(x: np.ndarray) -> np.ndarray:
  """Values `[H, W, 3]` of 0 to 255 as the network sees them."""
  # By whole rows: numpy takes eight times as long in steps of three numbers.
  width = x.shape[1]
  rows = x.reshape(len(x), -1) - np.tile(MEAN, width)
  rows /= np.tile(STD, width)
  return rows.reshape(x.shape)


def mirrored(x: np.ndarray) -> np.ndarray:
  """A copy of an image `[H, W, 3]` with left and right exchanged."""
  copy = np.empty_like(x)
  for channel in range(x.shape[-1]):  # pixel by pixel takes five times as long
    copy[..., channel] = x[:, ::-1, channel]
  return copy
