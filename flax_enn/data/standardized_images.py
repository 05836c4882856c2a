"""Any images, each standardised by itself."""

import dataclasses
from typing import Any

import numpy as np

from flax_enn.data.augmentation import passes_on
from flax_enn.data.base import Wrapped
from flax_enn.data.image_preprocess import PerImage
from flax_enn.data.row_generators import Generators


@dataclasses.dataclass(frozen=True)
class StandardizedImages(Wrapped):
  """A data set whose images have mean 0 and deviation 1, each by itself.

  After what its own augmentation does in training. `Mnist` does so itself; this
  is for an `arrays` data set of images, or another of TFDS.
  """

  @property
  def preprocess(self) -> PerImage:
    return PerImage(self.dataset.preprocess)

  @passes_on
  def augment(self, x: Any, rng: Any) -> np.ndarray:
    x, many = self.dataset.augment(x, rng), isinstance(rng, Generators)
    x = self.preprocess.standardized(x if many else x[None])
    return x if many else x[0]
