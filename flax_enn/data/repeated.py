"""Several views of every test example, one after the other."""

import dataclasses
from typing import Any

import numpy as np

from flax_enn.data.augmentation import random_flip, random_zoom
from flax_enn.data.base import Element, Source, Wrapped, check_numbers
from flax_enn.data.preprocess import decode


@dataclasses.dataclass(frozen=True)
class Repeated(Wrapped):
  """A test split in which each example comes `times` in a row, perturbed.

  Joint predictions of neighbours then tell ambiguity from ignorance: with
  `times=2` the pairs of the dyadic log-loss are two views of one image. enn's
  `make_repeat_sample_transform` and `make_dyadic_transform`. The training split
  is left as it is.

  Attributes:
    dataset: of images of bytes; of anything where nothing is perturbed.
    times: views of each example.
    limit: views in all, at most; None for all there are.
    crop: pixels by which the window is smaller that is cut out at random, and
      brought back to size.
    flip: whether each view is mirrored or not, at random.
    seed: of the perturbations, with the number of the view.
  """

  times: int = 2
  limit: int | None = None
  crop: int = 4
  flip: bool = True
  seed: int = 0

  def __post_init__(self):
    above_0 = ('times',) if self.limit is None else ('times', 'limit')
    check_numbers(self, above_0, ('crop', 'seed'))

  def load(self, split: str) -> Source:
    source = self.dataset.load(split)
    if split == 'train':
      return source
    whole = len(source) * self.times
    length = whole if self.limit is None else min(self.limit, whole)
    channels = getattr(self.input_spec, 'shape', (1,))[-1]
    return _Views(source, self, length, channels)


@dataclasses.dataclass(frozen=True, eq=False)
class _Views:
  """The views of the examples of a source, in order."""

  source: Source
  how: Repeated
  length: int
  channels: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Element:
    element = dict(self.source[index // self.how.times])
    if self.how.crop or self.how.flip:
      element['x'] = self._perturbed(element['x'], index)
    return element

  def _perturbed(self, x: Any, index: int) -> np.ndarray:
    if isinstance(x, bytes):
      x = decode(x, self.channels)
    if getattr(x, 'dtype', None) != np.uint8 or x.ndim != 3:
      raise ValueError(
          'only images of bytes can be cropped and flipped; set crop to 0 and'
          ' flip to False'
      )
    rng = np.random.default_rng([self.how.seed, index])
    x = random_zoom(x, self.how.crop, rng)
    return random_flip(x, rng) if self.how.flip else x
