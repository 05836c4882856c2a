"""Random changes of images `[B, H, W, ch]`, drawn from generators alone."""

from collections.abc import Callable
import functools
from typing import Any, TypeVar, cast

import jax
import numpy as np
from PIL import Image

from flax_enn.data.preprocess import MODES
from flax_enn.data.row_generators import Generators, OneRow

F = TypeVar('F', bound=Callable[..., Any])


def batched(augment: F) -> F:
  """Makes a data set's `augment` of many images also one of a single image.

  Args:
    augment: of the data set, x `[B, ...]`, and generators that draw `[B]`.

  Returns:
    The same, which also takes x without the axis B and a generator of numpy.
    It is known by its attribute `batched`: what overrides it has none.
  """

  @functools.wraps(augment)
  def one_or_many(self: Any, x: Any, rng: Any) -> Any:
    if isinstance(rng, Generators):
      return augment(self, x, rng)
    one = jax.tree.map(lambda leaf: np.asarray(leaf)[None], x)
    return jax.tree.map(lambda leaf: leaf[0], augment(self, one, OneRow(rng)))

  vars(one_or_many)['batched'] = True
  return cast(F, one_or_many)


def passes_on(augment: F) -> F:
  """Marks an `augment` that does what that of the wrapped data set does.

  It is at random, and takes many examples, where that is so and does.
  """
  vars(augment)['passes_on'] = True
  return augment


def random_crop(x: np.ndarray, padding: int, rng: Generators) -> np.ndarray:
  """Moves each image by up to `padding` pixels; zeros come in at the edges."""
  if not padding:
    return x
  size, sides = x.shape[1:3], (padding, padding)
  padded = np.pad(x, ((0, 0), sides, sides, (0, 0)))
  return random_window(padded, size, rng)


def random_window(
    x: np.ndarray, size: tuple[int, ...], rng: Generators
) -> np.ndarray:
  """Cuts `size` (height, width) out of each image, at a random place."""
  top, left = (rng.integers(0, a - b + 1) for a, b in zip(x.shape[1:], size))
  windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(1, 2))
  return np.moveaxis(windows, 3, 5)[np.arange(len(x)), top, left]


def random_flip(x: np.ndarray, rng: Generators) -> np.ndarray:
  """Mirrors each image left to right or leaves it, with even odds."""
  mirrored, x = rng.random() < 0.5, x.copy()
  x[mirrored] = x[mirrored, :, ::-1]
  return x


def random_cutout(x: np.ndarray, side: int, rng: Generators) -> np.ndarray:
  """Sets a square inside each image to zero or leaves it, with even odds.

  DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks
  with Cutout" (arXiv:1708.04552), in the form of enn. To be the last change: an
  image that is left draws where the square would have been.
  """
  if not side:
    return x
  cut = rng.random() >= 0.5
  inside = cut[:, None, None]
  for axis, size in enumerate(x.shape[1:3]):
    first = rng.integers(0, size - side + 1)
    at = np.arange(size) - first[:, None]
    inside = inside & np.expand_dims((at >= 0) & (at < side), 2 - axis)
  return np.where(inside[..., None], x.dtype.type(0), x)


def random_zoom(
    x: np.ndarray, pixels: int, rng: Generators
) -> np.ndarray:
  """Windows so many pixels smaller, at random places, brought back to size.

  Args:
    x: images of bytes.
    pixels: by which height and width of a window are smaller.
    rng: to draw from.
  """
  height, width, channels = x.shape[1:]
  if not pixels:
    return x
  if pixels >= min(height, width):
    raise ValueError(
        f'a window {pixels} pixels smaller than an image {list(x.shape[1:])} is'
        ' empty; take fewer'
    )
  windows = random_window(x, (height - pixels, width - pixels), rng)
  windows = windows[..., 0] if channels == 1 else windows
  images = (
      Image.fromarray(w, MODES[channels]).resize(
          (width, height), Image.Resampling.BICUBIC
      )
      for w in map(np.ascontiguousarray, windows)
  )
  return np.stack([np.asarray(image) for image in images]).reshape(x.shape)
