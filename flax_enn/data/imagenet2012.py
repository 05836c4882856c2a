"""ImageNet with enn's preprocessing. See docs/imagenet.md."""

import dataclasses
from typing import Any, ClassVar

import numpy as np

from flax_enn.data import jpeg
from flax_enn.data.base import Element, HeldOut, Source
from flax_enn.data.tfds_images import encoded, prepared

NAME = 'imagenet2012:5.*.*'

# Of red, green and blue in [0, 255]; enn's numbers.
MEAN = np.array([0.485 * 255, 0.456 * 255, 0.406 * 255], np.float32)
STD = np.array([0.229 * 255, 0.224 * 255, 0.225 * 255], np.float32)


@dataclasses.dataclass(frozen=True)
class Imagenet2012(HeldOut):
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

  task: ClassVar[str] = 'classification'
  classes: ClassVar[int] = 1000

  def __post_init__(self):
    super().__post_init__()
    if self.image_size < 1 or self.padding < 0:
      raise ValueError(
          f'config.dataset.image_size is {self.image_size} and'
          f' config.dataset.padding {self.padding}; they are numbers of pixels,'
          ' at least 1 and 0'
      )
    for field, most in (('area', 1.0), ('aspect', np.inf)):
      low, high = getattr(self, field)
      if not 0 < low <= high <= most:
        raise ValueError(
            f'config.dataset.{field} is {(low, high)}; it is the least and the'
            f' largest: above 0, in this order, at most {most}'
        )
    if self.area[1] < jpeg.LEAST_AREA:
      raise ValueError(
          f'config.dataset.area is {self.area}, but training crops are never'
          f' smaller than {jpeg.LEAST_AREA}; set its second number to more'
      )

  @property
  def shape(self) -> tuple[int, ...]:
    """See `Dataset`."""
    return self.image_size, self.image_size, 3

  def load(self, split: str) -> Source:
    """See `HeldOut`; x is the bytes of a JPEG."""
    builder = prepared(
        NAME, self.data_dir, see='docs/imagenet.md has every step.'
    )
    jpeg.tensorflow()  # raises here, and not in the first batch
    names = {'train': self.train_split, 'test': self.test_split}
    return Jpegs(encoded(builder, split, names[split]))

  def preprocess(self, element: Element) -> Element:
    """See `Dataset`: the central crop."""
    return self._cropped(element, None)

  def augment(self, element: Element, rng: np.random.Generator) -> Element:
    """See `Dataset`: a random crop, and a flip."""
    return self._cropped(element, rng)

  def _cropped(
      self, element: Element, rng: np.random.Generator | None
  ) -> Element:
    try:
      height, width = jpeg.shape(element['x'])
      window = None
      if rng is not None:
        window = jpeg.random_window(height, width, self.area, self.aspect, rng)
      if window is None:
        window = jpeg.central_window(
            height, width, self.image_size, self.padding
        )
      x = jpeg.decode(element['x'], window, self.image_size)
    except ValueError as e:
      raise ValueError(
          f'the image with id {element["id"]} of {self} is {e}. Prepare the'
          ' data set anew, or repair this record'
      ) from e
    x = normalised(x)
    if rng is not None and self.flip and rng.random() < 0.5:
      x = mirrored(x)
    return {**element, 'x': x}


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


@dataclasses.dataclass(frozen=True, eq=False)
class Jpegs:
  """Records of TFDS as encoded images with their labels.

  Attributes:
    records: source of examples with the features `image` and `label`.
  """

  records: Any

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> Element:
    record = self.records[index]
    return {'x': record['image'], 'y': np.int32(record['label'])}
