"""The user's own arrays, from one `.npz` file."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import numpy as np

from flax_enn.data.augmentation import batched, random_crop, random_flip
from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.data.npz import read_npz
from flax_enn.data.preprocess import (
    Identity,
    Pixels,
    Preprocess,
    Standardize,
    each,
)
from flax_enn.likelihoods import Categorical, Gaussian, Likelihood

KEYS = ('x_train', 'y_train', 'x_test', 'y_test')


@dataclasses.dataclass(frozen=True)
class Arrays(Dataset):
  """`x_train, y_train, x_test, y_test` of a file that `np.savez` wrote.

  Bytes (uint8) in `x` are scaled to [0, 1], and grey images of bytes
  `[B, height, width]` get an axis of channels; other inputs are taken as they
  are. Integers `[B]` in `y` are labels; floats `[B]` or `[B, C]` are targets of
  a regression.

  Attributes:
    path: of the file.
    num_classes: of labels; None to count those of the training split.
    noise_std: of targets, standard deviation of their noise.
    padding: pixels a training image may be moved by; what comes in is zero.
    flip: whether every other training image is mirrored.
    standardize: whether each channel of the images is brought to mean 0 and
      deviation 1 over all of `x_train`, before what comes in by `padding`.
  """

  path: str
  num_classes: int | None = None
  noise_std: float = 1.0
  padding: int = 0
  flip: bool = False
  standardize: bool = False

  learns: ClassVar[bool] = True

  def __post_init__(self):
    check_numbers(self, ('noise_std',), ())

  @property
  def likelihood(self) -> Likelihood:
    y = self._train.y
    if y.ndim > 1:
      return Gaussian(y.shape[1], scale=self.noise_std)
    return Categorical(self.num_classes or int(y.max()) + 1)

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self._train.x.shape[1:], np.float32)

  @property
  def _train(self) -> ArraySource:
    return self._splits['train']

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  @functools.cached_property
  def preprocess(self) -> Preprocess:
    x, pixels = self._train.x, self._train.x.dtype == np.uint8
    if not self.standardize:
      return Pixels(x.shape[1:]) if pixels else Identity()
    mean, std = self._moments
    if pixels:
      return Pixels(x.shape[1:], mean=mean, std=std)
    return Standardize(mean, std)

  @batched
  def augment(self, x: np.ndarray, rng: Any) -> np.ndarray:
    x = random_crop(each(self.preprocess, x), self.padding, rng)
    return random_flip(x, rng) if self.flip else x

  @property
  def augments(self) -> bool:
    own = type(self).augment is Arrays.augment
    return not own or self.padding > 0 or self.flip

  def __getstate__(self) -> dict[str, Any]:
    # With what was learned, or each worker would read the whole file again.
    return {**super().__getstate__(), 'preprocess': self.preprocess}

  @functools.cached_property
  def _moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation `[channels]` of training images as they are read."""
    x = self._train.x
    mean = x.mean(axis=(0, 1, 2), dtype=np.float64)
    # One image at a time: all of them as float64 may not fit in memory.
    squares = [np.square(image - mean).mean(axis=(0, 1)) for image in x]
    # Exact: float64 sums 2**29 equal values of float32 without rounding.
    constant = np.flatnonzero(np.equal(np.mean(squares, axis=0), 0))
    if len(constant):
      raise ValueError(
          f'standardize is True, but in x_train of {self.path!r} the channels'
          f' {constant.tolist()} have one value only; leave them out of the'
          ' file or set it to False'
      )
    moments = np.stack([mean, np.sqrt(np.mean(squares, axis=0))])
    unit = 255 if x.dtype == np.uint8 else 1
    mean, std = (moments / unit).astype(np.float32).tolist()
    return tuple(mean), tuple(std)

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    """Both splits, read and checked once."""
    arrays = self._read()
    splits = {}
    for split in ('train', 'test'):
      x, y = (f'{name}_{split}' for name in 'xy')
      sizes = [arrays[name].shape[:1] for name in (x, y)]
      if sizes[0] != sizes[1] or sizes[0] in ((), (0,)):
        raise self._error(
            f'{x} of shape {list(arrays[x].shape)} and {y} of'
            f' {list(arrays[y].shape)}; expected as many examples in both, and'
            ' at least one'
        )
      weight = arrays.get(f'weight_{split}')
      if weight is not None and weight.shape != arrays[y].shape[:1]:
        raise self._error(
            f'weight_{split} of shape {list(weight.shape)}; expected one weight'
            f' for each of {len(arrays[y])} examples'
        )
      if weight is not None:
        weight = self._floats(f'weight_{split}', weight)
      splits[split] = ArraySource(
          self._inputs(x, arrays[x]), self._targets(y, arrays[y]), weight
      )
    train, test = splits['train'], splits['test']
    self._check_images(train.x)
    for name, a, b in (('x', train.x, test.x), ('y', train.y, test.y)):
      if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        raise self._error(
            f'{name}_train of {a.dtype}{list(a.shape)} and {name}_test of'
            f' {b.dtype}{list(b.shape)}; one example of both must look alike'
        )
    if train.y.ndim > 1:
      return splits
    self._check_labels(train.y, test.y)
    return {
        split: ArraySource(source.x, source.y.astype(np.int32), source.weight)
        for split, source in splits.items()
    }

  def _read(self) -> dict[str, np.ndarray]:
    if not self.path:
      raise self._error('it must name a .npz file')
    try:
      arrays = read_npz(self.path)
    except ValueError as e:
      raise self._error(str(e)) from e
    missing = [key for key in KEYS if key not in arrays]
    if missing:
      raise self._error(f'no arrays {missing}; it has {sorted(arrays)}')
    return arrays

  def _inputs(self, name: str, x: np.ndarray) -> np.ndarray:
    """`[B, ...]` inputs as bytes or float32."""
    if 0 in x.shape:
      raise self._error(f'{name} of shape {list(x.shape)}; it has no numbers')
    if x.dtype == np.uint8:
      return x[..., None] if x.ndim == 3 else x
    return self._floats(name, x)

  def _targets(self, name: str, y: np.ndarray) -> np.ndarray:
    """`[B]` int64 labels or `[B, C]` float32 targets."""
    if y.ndim not in (1, 2):
      raise self._error(
          f'{name} of shape {list(y.shape)}; expected [B] or [B, C]'
      )
    if y.dtype.kind in 'biu':
      if y.ndim == 1:
        return y.astype(np.int64)
      raise self._error(
          f'{name} of integers {list(y.shape)}; labels are integers [B], and'
          ' targets of a regression are floats'
      )
    return self._floats(name, y[:, None] if y.ndim == 1 else y)

  def _floats(self, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in 'biuf':
      raise self._error(f'{name} of type {values.dtype}; expected numbers')
    exact, largest = 2**24, 0  # float32 holds all integers up to here
    if values.dtype.kind in 'iu' and values.size:  # numpy's abs overflows
      largest = max(int(values.max()), -int(values.min()))
    if largest > exact:
      raise self._error(
          f'the integer {largest} in {name}; float32 is exact up to {exact}'
          ' alone: scale such numbers, and give ids a data set of their own'
      )
    values = values.astype(np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
      bad = np.flatnonzero(~finite)
      raise self._error(
          f'values in {name} that are not finite, in {len(bad)} examples, the'
          f' first of them {bad[:5].tolist()}'
      )
    return values

  def _check_labels(self, train: np.ndarray, test: np.ndarray) -> None:
    """Checks that labels count from 0 without an end."""
    found = np.unique(train[train >= 0])
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if self.num_classes is None and len(gaps):
      raise self._error(
          f'labels up to {found[-1]} in y_train (example {train.argmax()}), but'
          f' never {gaps[0]}; set num_classes if that is right'
      )
    classes = self.num_classes or int(train.max()) + 1
    for name, y in (('y_train', train), ('y_test', test)):
      bad = np.flatnonzero((y < 0) | (y >= classes))
      if len(bad):
        raise self._error(
            f'the label {y[bad[0]]} in {name} (example {bad[0]}), but labels'
            f' are 0 to {classes - 1}; correct it or set num_classes'
        )

  def _check_images(self, x: np.ndarray) -> None:
    """Checks that what is asked for can be done to these inputs."""
    for field in ('padding', 'flip', 'standardize'):
      value = getattr(self, field)
      if value and x.ndim != 4:
        raise ValueError(
            f'{field} is {value}, which is for images'
            f' [B, height, width, channels], but x_train in {self.path!r} is'
            f' of shape {list(x.shape)}; leave it out'
        )
    if self.padding and not 0 <= self.padding <= min(x.shape[1:3]):
      raise ValueError(
          f'padding is {self.padding}; it is a number of pixels, from 0 to'
          f' {min(x.shape[1:3])} for images of shape {list(x.shape[1:])}'
      )

  def _error(self, found: str) -> ValueError:
    return ValueError(f'path is {self.path!r}: {found}')
