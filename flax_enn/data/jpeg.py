"""From the bytes of a JPEG to a crop of it, as enn has it.

The windows are drawn with numpy. Only what is inside of one is decoded, and
resized with TensorFlow's bicubic filter: it interpolates four pixels a side
even where it shrinks an image, and overshoots at edges, so that a network meets
the images that enn's checkpoints were trained on (`enn/datasets/imagenet.py`).
"""

import functools
import re
from typing import Any

import numpy as np

from flax_enn.data.preprocess import check_size

Window = tuple[int, int, int, int]  # top, left, height, width, in pixels

# Of an image: less than this is never seen in training; enn's number.
LEAST_AREA = 0.1


def central_window(
    height: int, width: int, size: int, padding: int
) -> Window:
  """The square in the middle that is left of an image with a margin around.

  Args:
    height: of the image.
    width: of the image.
    size: side of the square when the image is brought to size + padding.
    padding: both margins together, by the shorter side of the image.
  """
  side = max(1, min(height, width) * size // (size + padding))
  return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def random_window(
    height: int,
    width: int,
    area: tuple[float, float],
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> Window | None:
  """A random part of an image, as TensorFlow draws it for enn.

  The aspect ratio is uniform; given it, the height is uniform between what the
  least and the largest area allow inside the image (so that small areas are
  likelier than large ones). Parts that come out smaller or larger than that, or
  less than `LEAST_AREA` of the image, are drawn again.

  Args:
    height: of the image.
    width: of the image.
    area: least and largest, as a fraction of the image's.
    aspect: least and largest width over height.
    rng: what is drawn from.

  Returns:
    The window; None if ten attempts fail, as with an extremely long image.
  """
  pixels = height * width
  for _ in range(10):
    ratio = rng.uniform(*aspect)
    least, most = (np.sqrt(a * pixels / ratio) for a in area)
    most = min(most, height, (width + 0.49) // ratio)
    low, high = round(least), int(most)
    rows = int(rng.integers(low, high + 1)) if low < high else high
    columns = round(rows * ratio)
    least, most = max(LEAST_AREA, area[0]) * pixels, area[1] * pixels
    if 0 < columns <= width and least <= rows * columns <= most:
      top = int(rng.integers(0, height - rows + 1))
      left = int(rng.integers(0, width - columns + 1))
      return top, left, rows, columns
  return None


def shape(encoded: bytes) -> tuple[int, int]:
  """Height and width of a JPEG, from its header.

  Raises:
    ValueError: it is none, or too large to be one in good faith.
  """
  tf = tensorflow()
  try:
    height, width, _ = tf.raw_ops.ExtractJpegShape(contents=encoded).numpy()
  except tf.errors.InvalidArgumentError as e:
    raise ValueError(f'not a JPEG: {_reason(e)}') from e
  check_size(int(height), int(width))
  return int(height), int(width)


def decode(encoded: bytes, window: Window, size: int) -> np.ndarray:
  """`[size, size, 3]` float32 values around 0 to 255 of a part of a JPEG.

  Raises:
    ValueError: it cannot be decoded.
  """
  tf = tensorflow()
  try:
    pixels = tf.raw_ops.DecodeAndCropJpeg(
        contents=encoded,
        crop_window=window,
        channels=3,
        # Whatever libjpeg was built with: the same pixels everywhere.
        dct_method='INTEGER_ACCURATE',
    )
  except tf.errors.InvalidArgumentError as e:
    raise ValueError(f'a JPEG that cannot be decoded: {_reason(e)}') from e
  resized = tf.raw_ops.ResizeBicubic(
      images=tf.raw_ops.ExpandDims(input=pixels, axis=0),  # as [None], faster
      size=(size, size),
      half_pixel_centers=True,
  )
  return resized.numpy()[0]


def resized(pixels: np.ndarray, window: Window, size: int) -> np.ndarray:
  """`[size, size, 3]` float32 of a part of decoded pixels, as `decode` has it.

  Without TensorFlow, whose filter it is: the cubic of Keys (1981) with a = -1/2
  over four pixels a side, those beyond an edge left out. (TensorFlow takes its
  weights from a table of 1,024 steps: about 0.05 of 255 apart.)

  Args:
    pixels: `[H, W, 3]` bytes of a whole image.
    window: the part.
    size: side of the result.
  """
  top, left, height, width = window
  part = pixels[top : top + height, left : left + width].astype(np.float32)
  rows, columns = (_cubic(n, size) for n in (height, width))
  half = np.tensordot(rows, part, 1)
  return np.tensordot(half, columns, (1, 1)).swapaxes(1, 2)


@functools.lru_cache
def _cubic(n: int, size: int) -> np.ndarray:
  """`[size, n]` weights that bring n pixels to another number of them."""
  place = (np.arange(size) + 0.5) * n / size - 0.5
  distance = np.abs(place[:, None] - np.arange(n))
  near = ((1.5 * distance - 2.5) * distance) * distance + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
  return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@functools.cache
def tensorflow() -> Any:
  """TensorFlow, kept small: it is imported when the first JPEG is read.

  Raises:
    ModuleNotFoundError: it is not installed.
  """
  try:
    import tensorflow as tf
  except ModuleNotFoundError as e:
    raise ModuleNotFoundError(
        'JPEGs are decoded with TensorFlow, which is not installed: pip install'
        " 'flax_enn[train]'"
    ) from e
  try:
    # The accelerators are JAX's, and images are read side by side already.
    tf.config.set_visible_devices([], 'GPU')
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
  except RuntimeError:
    pass  # Whoever has used TensorFlow before in this process has set it up.
  return tf


def _reason(error: Exception) -> str:
  """TensorFlow's first line without the names of its functions."""
  return re.sub(r'\{\{.*?\}\} | \[Op:.*', '', str(error).splitlines()[0])
