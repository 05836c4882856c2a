"""More that is done to an image before a network takes it."""

import dataclasses
import math
from typing import Any

import numpy as np

from flax_enn.data.preprocess import Pixels, Preprocess, of_many


@dataclasses.dataclass(frozen=True)
class PerImage:
  """Every image with mean 0 and deviation 1 by itself, over all its entries.

  As `tf.image.per_image_standardization`, and so enn's MNIST: the deviation is
  at least 1 / sqrt(entries), which keeps an even image at 0.

  Attributes:
    before: from the image as it is stored to floats in [0, 1].
  """

  before: Preprocess

  def __call__(self, x: Any) -> np.ndarray:
    return self.standardized(self.before(x)[None])[0]

  def standardized(self, x: np.ndarray) -> np.ndarray:
    """Images of floats `[B, ...]`."""
    flat = x.reshape(len(x), -1)
    least = np.float32(1 / math.sqrt(flat.shape[1]))
    std = np.maximum(flat.std(axis=1, keepdims=True), least)
    return ((flat - flat.mean(axis=1, keepdims=True)) / std).reshape(x.shape)

  def of_many(self, x: Any) -> Preprocess | None:
    before = of_many(self.before, x)
    return before and (lambda some: self.standardized(before(some)))


@dataclasses.dataclass(frozen=True)
class CentralCrop:
  """The middle of an image.

  Attributes:
    pixels: from the image as it is stored to a larger one of floats.
    size: (height, width) of what is cut out.
  """

  pixels: Pixels
  size: tuple[int, int]

  def __call__(self, x: Any) -> np.ndarray:
    return self._middle(self.pixels(x)[None])[0]

  def of_many(self, x: Any) -> Preprocess | None:
    pixels = of_many(self.pixels, x)
    return pixels and (lambda some: self._middle(pixels(some)))

  def _middle(self, x: np.ndarray) -> np.ndarray:
    top, left = ((a - b) // 2 for a, b in zip(x.shape[1:], self.size))
    return x[:, top : top + self.size[0], left : left + self.size[1]]
