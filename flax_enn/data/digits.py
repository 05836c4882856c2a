"""Scans of handwritten digits, prepared on first use and without network."""

import dataclasses
import functools

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.preprocess import Pixels
from flax_enn.data.tfds_images import load_pixels
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class Digits(Dataset):
  """1,437 training and 360 test images [8, 8, 1] in [0, 1], of 10 classes.

  Attributes:
    data_dir: where TFDS prepares and finds them; None for its own default.
  """

  data_dir: str | None = None

  @property
  def likelihood(self) -> Categorical:
    return Categorical(10)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((8, 8, 1), np.float32)

  @property
  def preprocess(self) -> Pixels:
    return Pixels((8, 8, 1))

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    """Decoded once, as they are small."""
    prepare(self.data_dir)
    return load_pixels('sklearn_digits', self.data_dir, self.preprocess)


def prepare(data_dir: str | None) -> None:
  """Writes the data set to `data_dir` unless it is there.

  Safe to call from several processes at once: each writes a folder of its own,
  and the first to rename its folder wins.
  """
  from flax_enn.data.digits_builder import SklearnDigits

  builder = SklearnDigits(data_dir=data_dir, file_format='array_record')
  try:
    builder.download_and_prepare()
  except OSError as e:
    if not SklearnDigits(data_dir=data_dir).is_prepared():
      raise ValueError(
          f'data_dir is {data_dir!r}: cannot prepare {builder.data_dir}: {e}'
      ) from e
