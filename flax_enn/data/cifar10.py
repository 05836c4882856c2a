"""CIFAR-10 with its usual augmentation."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from flax_enn.data.augmentation import (
    batched,
    random_crop,
    random_cutout,
    random_flip,
    random_window,
)
from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.image_preprocess import CentralCrop
from flax_enn.data.preprocess import Pixels, Preprocess, each
from flax_enn.data.tfds_images import load_pixels
from flax_enn.likelihoods import Categorical

# Of the training images in [0, 1]; enn's numbers, for CIFAR-100 too.
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)


@dataclasses.dataclass(frozen=True)
class Cifar10(Dataset):
  """50,000 training and 10,000 test images [32, 32, 3] of 10 classes.

  Channels have mean 0 and deviation 1. A training image is moved by up to four
  pixels and flipped (He et al., arXiv:1512.03385, section 4.2), where enn cuts
  24x24 pixels out of it (`crop=24`; its evaluation takes whole images, and here
  their middle, so that the network sees one size). TFDS must have prepared the
  set as ArrayRecord files; all of it is held in memory, as 184 MB of bytes.

  Attributes:
    data_dir: where TFDS prepared it; None for its own default.
    padding: pixels an image may be moved by; what comes in is the mean colour.
    flip: whether every other image is mirrored.
    cutout: side of the square that is blanked in every other image; 0 for none.
    crop: side of the square that is cut out of an image, at random in training
      and in the middle elsewhere; None for the whole image. With it `padding`
      is of no meaning.
  """

  data_dir: str | None = None
  padding: int = 4
  flip: bool = True
  cutout: int = 0
  crop: int | None = None

  tfds_name: ClassVar[str] = 'cifar10:3.*.*'

  @property
  def likelihood(self) -> Categorical:
    return Categorical(10)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    side = 32 if self.crop is None else self.crop
    return jax.ShapeDtypeStruct((side, side, 3), np.float32)

  @property
  def preprocess(self) -> Preprocess:
    if self.crop is None:
      return self._pixels
    return CentralCrop(self._pixels, (self.crop, self.crop))

  @property
  def _pixels(self) -> Pixels:
    return Pixels((32, 32, 3), mean=MEAN, std=STD)

  def __post_init__(self):
    for field in ('padding', 'cutout'):
      value = getattr(self, field)
      if not 0 <= value <= 32:
        raise ValueError(
            f'{field} is {value}; it is a number of pixels, from 0 to 32'
        )
    side = 32 if self.crop is None else self.crop
    if not max(1, self.cutout) <= side <= 32:
      raise ValueError(
          f'crop is {self.crop}; it is a number of pixels, from 1 (or cutout,'
          f' {self.cutout}) to 32'
      )

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  @batched
  def augment(self, x: np.ndarray, rng: Any) -> np.ndarray:
    x = each(self._pixels, x)
    if self.crop is None:
      x = random_crop(x, self.padding, rng)
    else:
      x = random_window(x, (self.crop, self.crop), rng)
    if self.flip:
      x = random_flip(x, rng)
    return random_cutout(x, self.cutout, rng)

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    """Decoded once: a record takes longer to decode than to train on."""
    see = 'docs/imagenet.md says what tfds convert_format needs.'
    return load_pixels(self.tfds_name, self.data_dir, self._pixels, see)
