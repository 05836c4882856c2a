"""Handwritten digits, each image standardised by itself."""

import dataclasses
import functools

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.image_preprocess import PerImage
from flax_enn.data.preprocess import Pixels, Preprocess
from flax_enn.data.tfds_images import load_pixels
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class Mnist(Dataset):
  """60,000 training and 10,000 test images [28, 28, 1] of 10 classes.

  TFDS must have prepared the set as ArrayRecord files; all of it is held in
  memory, as 55 MB of bytes. Other sets of its form (`fashion_mnist`, `kmnist`)
  have it by their name.

  Attributes:
    data_dir: where TFDS prepared it; None for its own default.
    tfds_name: as in `tfds.builder`.
    per_image: whether every image has mean 0 and deviation 1, as in enn; else
      it is in [0, 1].
  """

  data_dir: str | None = None
  tfds_name: str = 'mnist:3.*.*'
  per_image: bool = True

  @property
  def likelihood(self) -> Categorical:
    return Categorical(10)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((28, 28, 1), np.float32)

  @property
  def preprocess(self) -> Preprocess:
    pixels = Pixels((28, 28, 1))
    return PerImage(pixels) if self.per_image else pixels

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    see = 'docs/imagenet.md says what tfds convert_format needs.'
    pixels = Pixels((28, 28, 1))
    return load_pixels(self.tfds_name, self.data_dir, pixels, see)
