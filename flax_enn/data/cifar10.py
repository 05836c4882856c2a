"""CIFAR-10 with its usual augmentation."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from flax_enn.data.augmentation import random_crop, random_cutout, random_flip
from flax_enn.data.base import Element, HeldOut, InMemory
from flax_enn.data.tfds_images import Images, prepared

# Of the training images in [0, 1]; enn's numbers, for CIFAR-100 too.
MEAN = np.array([0.49139968, 0.48215841, 0.44653091], np.float32)
STD = np.array([0.24703223, 0.24348513, 0.26158784], np.float32)


@dataclasses.dataclass(frozen=True)
class Cifar10(HeldOut):
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
  task: ClassVar[str] = 'classification'
  classes: ClassVar[int] = 10
  shape: ClassVar[tuple[int, ...]] = (32, 32, 3)

  def __post_init__(self):
    super().__post_init__()
    for field in ('padding', 'cutout'):
      value = getattr(self, field)
      if not 0 <= value <= self.shape[0]:
        raise ValueError(
            f'config.dataset.{field} is {value}; it is a number of pixels, from'
            f' 0 to {self.shape[0]}'
        )

  def load(self, split: str) -> InMemory:
    """See `HeldOut`."""
    return self._splits[split]

  def preprocess(self, element: Element) -> Element:
    """See `Dataset`."""
    return {**element, 'x': (element['x'] - MEAN) / STD}

  def augment(self, element: Element, rng: np.random.Generator) -> Element:
    """See `Dataset`."""
    element = self.preprocess(element)
    x = random_crop(element['x'], self.padding, rng)
    if self.flip:
      x = random_flip(x, rng)
    return {**element, 'x': random_cutout(x, self.cutout, rng)}

  @functools.cached_property
  def _splits(self) -> dict[str, InMemory]:
    """Decoded once: a record takes longer to decode than to train on."""
    import tensorflow_datasets as tfds

    builder = prepared(
        self.tfds_name,
        self.data_dir,
        see='docs/imagenet.md says what tfds convert_format needs.',
    )
    decoders = {'image': tfds.decode.SkipDecoding()}
    splits = {}
    for split in ('train', 'test'):
      records = builder.as_data_source(split, decoders=decoders)
      images = Images(records, 'image', 'label', self.shape)
      pixels = np.stack([images.pixels(record) for record in records])
      labels = np.array([record['label'] for record in records], np.int32)
      splits[split] = InMemory(pixels, labels)
    return splits
