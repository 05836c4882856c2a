"""More that is done to an image before a network takes it."""

import dataclasses
import math
from typing import Any

import numpy as np

from flax_enn.data.preprocess import Pixels, Preprocess


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
    return self.standardized(self.before(x))

  def standardized(self, x: np.ndarray) -> np.ndarray:
    """An image of floats."""
    std = max(float(x.std()), 1 / math.sqrt(x.size))
    return (x - x.mean()) / np.float32(std)


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
    x = self.pixels(x)
    top, left = ((a - b) // 2 for a, b in zip(x.shape, self.size))
    return x[top : top + self.size[0], left : left + self.size[1]]
