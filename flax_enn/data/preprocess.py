"""From an input as it is stored to the input that a network takes.

What is learned from data (means, deviations) are plain numbers in the fields of
a frozen dataclass, so that a run can write its preprocessing down, and a model
can be used where its data have never been.
"""

from collections.abc import Callable, Mapping
import dataclasses
import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps

Preprocess = Callable[[Any], Any]

# Channels -> Pillow's name for bytes of so many.
MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}
# What becomes one of these without a loss: other modes have more than a byte in
# a channel, or colours that depend on a profile (CMYK).
_READABLE = ('1', 'L', 'LA', 'P', 'RGB', 'RGBA')
_MOST_PIXELS = 2**27  # the largest photo of ImageNet has half as many


@dataclasses.dataclass(frozen=True)
class Identity:
  """x as it is."""

  def __call__(self, x: Any) -> Any:
    return x

  def of_many(self, x: Any) -> Preprocess:
    del x
    return self


IDENTITY = Identity()


@dataclasses.dataclass(frozen=True)
class FeaturesOf:
  """Takes what one base has computed, by name, as it is.

  Attributes:
    id: of the base and the preprocessing of its inputs, see `feature_shards`.
    names: of the features, and `logits`.
  """

  id: str
  names: tuple[str, ...]

  def __call__(self, x: Any) -> Any:
    """Returns x.

    Raises:
      ValueError: it is something else, such as an input of the base.
    """
    if isinstance(x, Mapping) and {*x} == {*self.names}:
      return x
    found = sorted(x) if isinstance(x, Mapping) else type(x).__name__
    raise ValueError(
        f'x is {found}; this model takes the stored features of its base by'
        f' name, {", ".join(self.names)}, and not what the base takes:'
        ' flax_enn.feature_cache.Base computes them (the id of base and'
        f' preprocessing is {self.id[:12]})'
    )

  def of_many(self, x: Any) -> Preprocess:
    del x
    return self


@dataclasses.dataclass(frozen=True)
class Standardize:
  """`(x - mean) / std` of floats, channel by channel.

  Attributes:
    mean: of each channel (the last axis).
    std: of each channel.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]

  def __call__(self, x: np.ndarray) -> np.ndarray:
    mean, std = np.array([self.mean, self.std], np.float32)
    return (x - mean) / std

  def of_many(self, x: Any) -> Preprocess | None:
    return self if isinstance(x, np.ndarray) and x.ndim > 1 else None


@dataclasses.dataclass(frozen=True)
class Pixels:
  """Bytes of an image as floats in [0, 1], or with mean 0 and deviation 1.

  Takes an array of uint8, or an encoded image (PNG, JPEG …), which is decoded
  with Pillow, so that it is the same everywhere.

  Attributes:
    shape: (height, width, channels), or any other of bytes.
    resize: whether an image of another size is brought to it, cut at the centre
      to keep its proportions; else it is refused.
    mean: of each channel in [0, 1]; None leaves it.
    std: of each channel.
  """

  shape: tuple[int, ...]
  resize: bool = False
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None

  def __call__(self, x: Any) -> np.ndarray:
    """`shape` float32.

    Raises:
      ValueError: x is of another dtype or shape, or cannot be decoded.
    """
    x = np.divide(self.pixels(x), 255, dtype=np.float32)
    if self.mean is None or self.std is None:
      return x
    return Standardize(self.mean, self.std)(x)

  def pixels(self, x: Any) -> np.ndarray:
    """The image as uint8, of the given shape."""
    if isinstance(x, bytes):
      x = decode(x, self.shape[-1])
    x = np.asarray(x)
    if x.dtype == np.uint8 and x.shape == self.shape:
      return x
    same_kind = x.ndim == 3 and x.shape[-1:] == self.shape[-1:]
    if x.dtype != np.uint8 or not self.resize or not same_kind:
      size = 'any size' if self.resize else 'that size'
      raise ValueError(
          f'an image is {x.dtype}{list(x.shape)}; expected bytes'
          f' uint8{list(self.shape)}, of {size}'
      )
    height, width, channels = self.shape
    image = Image.fromarray(x[..., 0] if channels == 1 else x, MODES[channels])
    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(self.shape)

  def of_many(self, x: Any) -> Preprocess | None:
    fits = isinstance(x, np.ndarray) and x.dtype == np.uint8
    if not fits or x.shape[1:] != self.shape:
      return None
    return lambda some: dataclasses.replace(self, shape=some.shape)(some)


def of_many(fn: Preprocess, x: Any) -> Preprocess | None:
  """`fn` for many examples at once, equal to the last bit.

  Args:
    fn: for one example. Its class may have a method of this name, which takes
      x; a subclass needs one of its own, since it may do something else.
    x: `[B, ...]` all examples, an array or a pytree of them.

  Returns:
    For some of them; None where it is not known.
  """
  known: Any = fn
  return known.of_many(x) if 'of_many' in vars(type(fn)) else None


def each(fn: Preprocess, x: np.ndarray) -> np.ndarray:
  """`fn` of every example of `[B, ...]`, at once where that is known."""
  many = of_many(fn, x)
  return np.stack([fn(one) for one in x]) if many is None else many(x)


def decode(encoded: bytes, channels: int) -> np.ndarray:
  """`[H, W, channels]` uint8 of an encoded image.

  Grey becomes equal channels, and a palette its colours.

  Raises:
    ValueError: it cannot be decoded, is too large to be one in good faith, or
      has what so many bytes a pixel do not hold: 16 bits, other colours than
      red, green and blue, colours where grey is expected, transparency.
  """
  try:
    with Image.open(io.BytesIO(encoded)) as image:
      check_size(image.height, image.width)
      tiles = [str(tile[3]) for tile in image.tile]  # as they are in the file
      image.load()
  except Image.DecompressionBombError as e:
    raise ValueError(f'an image that is too large: {e}') from e
  except (ValueError, MemoryError):
    raise
  except Exception as e:  # each format has its own
    raise ValueError(f'not an image that Pillow can decode: {e}') from e
  mode, shape = image.mode, (image.height, image.width, channels)
  if mode not in _READABLE or any(';16' in tile for tile in tiles):
    raise ValueError(
        f'an image of mode {mode} ({", ".join(tiles)}); expected 8 bits in each'
        ' channel: grey, RGB, a palette, or these with transparency'
    )
  if mode == MODES[channels] and 'transparency' not in image.info:
    return np.asarray(image).reshape(shape)
  rgba = np.asarray(image.convert('RGBA'))
  if channels < 4 and rgba[..., 3].min() < 255:
    raise ValueError(
        f'an image of mode {mode} with transparent pixels; expected'
        f' {MODES[channels]}'
    )
  if channels == 1 and (rgba[..., :1] != rgba[..., :3]).any():
    raise ValueError(f'an image of mode {mode} with colours; expected grey')
  return rgba[..., :channels].reshape(shape)


def check_size(height: int, width: int) -> None:
  """Raises a ValueError for an image that would fill the memory."""
  if height * width > _MOST_PIXELS:
    raise ValueError(
        f'an image of {height} x {width} pixels; expected {_MOST_PIXELS:,} at'
        ' most'
    )
