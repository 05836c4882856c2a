"""Images of one size as JPEGs, one after another in one `.npz` file."""

import dataclasses
import functools
import itertools
from typing import ClassVar

import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset
from flax_enn.data.npz import read_npz
from flax_enn.data.preprocess import Pixels, decode
from flax_enn.likelihoods import Categorical

_KEYS = ('jpeg', 'off', 'y')


@dataclasses.dataclass(frozen=True)
class JpegPack(Dataset):
  """`jpeg_train, off_train, y_train` and the same of the test split.

  `jpeg` are the bytes of all files of a split `[bytes]`, `off` where each
  begins and the last one ends `[B + 1]`, `y` labels `[B]`; `class_names` may be
  there. All of it is held in memory, as bytes of pixels. An image that cannot
  be decoded is one that `skip_bad` counts.

  Attributes:
    path: of the file.
    mean: of each channel in [0, 1], which is taken off; None leaves images in
      [0, 1].
    std: of each channel, which they are then divided by.
  """

  path: str
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None

  learns: ClassVar[bool] = True

  def __post_init__(self):
    if (self.mean is None) != (self.std is None):
      raise ValueError(
          f'mean is {self.mean} and std is {self.std}; set both, or neither'
      )

  @property
  def likelihood(self) -> Categorical:
    return Categorical(int(self._splits['train'].y.max()) + 1)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self._splits['train'].x.shape[1:], np.float32)

  @property
  def class_names(self) -> tuple[str, ...]:
    names = self._arrays.get('class_names', np.array([], str))
    return tuple(map(str, names))

  @property
  def preprocess(self) -> Pixels:
    return Pixels(self.input_spec.shape, mean=self.mean, std=self.std)

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  @functools.cached_property
  def _arrays(self) -> dict[str, np.ndarray]:
    if not self.path:
      raise ValueError('path is empty; it must name a .npz file')
    try:
      return read_npz(self.path)
    except ValueError as e:
      raise ValueError(f'path is {self.path!r}: {e}') from e

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    return {split: self._decoded(split) for split in ('train', 'test')}

  def _decoded(self, split: str) -> ArraySource:
    names = [f'{key}_{split}' for key in _KEYS]
    found = self._arrays
    if missing := [name for name in names if name not in found]:
      raise ValueError(
          f'path is {self.path!r}: no arrays {missing}; it has {sorted(found)}'
      )
    content, ends, y = (found[name] for name in names)
    ends = ends.astype(np.int64)
    if (
        y.ndim != 1
        or not len(y)
        or ends.shape != (len(y) + 1,)
        or (np.diff(ends) < 0).any()
        or ends[0] < 0
        or ends[-1] > content.size
    ):
      raise ValueError(
          f'path is {self.path!r}: {names[1]} {list(ends.shape)} are not where'
          f' the {list(y.shape)} files in the {content.size} bytes of'
          f' {names[0]} begin and end'
      )
    images, bad = [], {}
    for i, (start, end) in enumerate(itertools.pairwise(ends)):
      try:
        images.append(decode(content[start:end].tobytes(), channels=3))
      except ValueError as e:
        images.append(None)
        bad[i] = str(e)
    shape = next((i.shape for i in images if i is not None), (1, 1, 3))
    for i, image in enumerate(images):
      if image is None or image.shape != shape:
        bad.setdefault(i, f'it is not of the shape {list(shape)} of the others')
        images[i] = np.zeros(shape, np.uint8)
    return ArraySource(np.stack(images), y.astype(np.int32), unreadable=bad)
