"""Random changes of one image `[H, W, ch]`, drawn from a generator alone."""

import numpy as np
from PIL import Image

from flax_enn.data.preprocess import MODES


def random_crop(
    x: np.ndarray, padding: int, rng: np.random.Generator
) -> np.ndarray:
  """Moves the image by up to `padding` pixels; zeros come in at the edges."""
  if not padding:
    return x
  height, width = x.shape[:2]
  padded = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
  top, left = rng.integers(0, 2 * padding + 1, size=2)
  return padded[top : top + height, left : left + width]


def random_window(
    x: np.ndarray, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
  """Cuts `size` (height, width) out of the image, at a random place."""
  top, left = (rng.integers(0, a - b + 1) for a, b in zip(x.shape, size))
  return x[top : top + size[0], left : left + size[1]]


def random_zoom(
    x: np.ndarray, pixels: int, rng: np.random.Generator
) -> np.ndarray:
  """A window so many pixels smaller, at a random place, brought back to size.

  Args:
    x: image of bytes.
    pixels: by which height and width of the window are smaller.
    rng: to draw from.
  """
  height, width, channels = x.shape
  if not pixels:
    return x
  if pixels >= min(height, width):
    raise ValueError(
        f'a window {pixels} pixels smaller than an image {list(x.shape)} is'
        ' empty; take fewer'
    )
  window = random_window(x, (height - pixels, width - pixels), rng)
  window = window[..., 0] if channels == 1 else window
  image = Image.fromarray(np.ascontiguousarray(window), MODES[channels])
  image = image.resize((width, height), Image.Resampling.BICUBIC)
  return np.asarray(image).reshape(x.shape)


def random_flip(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Mirrors the image left to right or leaves it, with even odds."""
  return x[:, ::-1] if rng.random() < 0.5 else x


def random_cutout(
    x: np.ndarray, side: int, rng: np.random.Generator
) -> np.ndarray:
  """Sets a square inside the image to zero or leaves it, with even odds.

  DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks
  with Cutout" (arXiv:1708.04552), in the form of enn.
  """
  if not side or rng.random() < 0.5:
    return x
  top, left = (rng.integers(0, size - side + 1) for size in x.shape[:2])
  x = x.copy()
  x[top : top + side, left : left + side] = 0
  return x
