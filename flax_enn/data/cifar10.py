"""CIFAR-10 with its usual augmentation."""

import dataclasses
import functools
from typing import ClassVar

import jax
import numpy as np

from flax_enn.data.augmentation import random_crop, random_cutout, random_flip
from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.preprocess import Pixels
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
  24x24 pixels out of it. TFDS must have prepared the set as ArrayRecord files;
  all of it is held in memory, as 184 MB of bytes.

  Attributes:
    data_dir: where TFDS prepared it; None for its own default.
    padding: pixels an image may be moved by; what comes in is the mean colour.
    flip: whether every other image is mirrored.
    cutout: side of the square that is blanked in every other image; 0 for none.
  """

  data_dir: str | None = None
  padding: int = 4
  flip: bool = True
  cutout: int = 0

  tfds_name: ClassVar[str] = 'cifar10:3.*.*'

  @property
  def likelihood(self) -> Categorical:
    return Categorical(10)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((32, 32, 3), np.float32)

  @property
  def preprocess(self) -> Pixels:
    return Pixels((32, 32, 3), mean=MEAN, std=STD)

  def __post_init__(self):
    for field in ('padding', 'cutout'):
      value = getattr(self, field)
      if not 0 <= value <= 32:
        raise ValueError(
            f'{field} is {value}; it is a number of pixels, from 0 to 32'
        )

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  def augment(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    x = random_crop(self.preprocess(x), self.padding, rng)
    if self.flip:
      x = random_flip(x, rng)
    return random_cutout(x, self.cutout, rng)

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    """Decoded once: a record takes longer to decode than to train on."""
    see = 'docs/imagenet.md says what tfds convert_format needs.'
    return load_pixels(self.tfds_name, self.data_dir, self.preprocess, see)
