"""Scans of handwritten digits, prepared on first use and without network."""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from flax_enn.data.base import HeldOut, InMemory
from flax_enn.data.tfds_images import TfdsImages


@dataclasses.dataclass(frozen=True)
class Digits(HeldOut):
  """1,437 training and 360 test images [8, 8, 1] in [0, 1], of 10 classes.

  Attributes:
    data_dir: where TFDS prepares and finds them; None for its own default.
  """

  data_dir: str | None = None

  task: ClassVar[str] = 'classification'
  classes: ClassVar[int] = 10
  shape: ClassVar[tuple[int, ...]] = (8, 8, 1)

  def load(self, split: str) -> InMemory:
    """See `HeldOut`."""
    return self._splits[split]

  @functools.cached_property
  def _splits(self) -> dict[str, InMemory]:
    """Decoded once, as they are small."""
    prepare(self.data_dir)
    images = TfdsImages(tfds_name='sklearn_digits', data_dir=self.data_dir)
    splits = {}
    for split in ('train', 'test'):
      source = images.load(split)
      elements = [source[i] for i in range(len(source))]
      splits[split] = InMemory(
          np.stack([e['x'] for e in elements]),
          np.stack([e['y'] for e in elements]),
      )
    return splits


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
          f'config.dataset.data_dir is {data_dir!r}: cannot prepare'
          f' {builder.data_dir}: {e}'
      ) from e
