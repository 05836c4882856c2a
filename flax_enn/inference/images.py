"""From an image, as people have it, to an input of a network."""

import os
from typing import Any

from etils import epath
import jax
import numpy as np
from PIL import Image

from flax_enn.data.preprocess import MODES, FeaturesOf, decode
from flax_enn.data.word_pieces import WordPieces
from flax_enn.model import Model


def preprocess(model: Model, image: Any) -> Any:
  """One input of the network; see `Predictor.preprocess`."""
  what = 'x'
  if isinstance(model.preprocess, WordPieces):
    what = 'the text'
  elif isinstance(model.preprocess, FeaturesOf):
    what = 'the input'  # images, too, it refuses with a word on what it takes
  elif isinstance(image, (str, os.PathLike)):
    path = epath.Path(image).expanduser()
    what = str(path)
    if not path.is_file():
      raise ValueError(f'{path} is not a file; expected an image')
    image = _located(what, decode, path.read_bytes(), _channels(model, what))
  elif isinstance(image, Image.Image):
    what = 'the image'
    image = image.convert(MODES[_channels(model, what)])
    image = np.asarray(image).reshape(image.height, image.width, -1)
  elif isinstance(image, (np.ndarray, jax.Array)):
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.ndim == 2:
      # Gray; as many channels as the network takes, as of a gray file.
      image = np.stack([image] * _channels(model, what), axis=-1)
  x = _located(what, model.preprocess, image)
  x = jax.tree.map(np.asarray, x)
  found, expected = (
      jax.tree.map(lambda a: f'{a.dtype}{list(a.shape)}', tree)
      for tree in (x, model.input_spec)
  )
  if found != expected:
    raise ValueError(
        f'{what} is {found} after preprocessing; the network takes {expected}'
    )
  return x


def _channels(model: Model, what: str) -> int:
  """Channels of the images that a model takes."""
  spec = model.input_spec
  shape = getattr(spec, 'shape', ())
  if len(shape) != 3 or shape[-1] not in MODES:
    raise ValueError(
        f'{what} is an image, but inputs of this model are {spec}; give arrays'
    )
  return shape[-1]


def _located(what: str, fn: Any, *args: Any) -> Any:
  """`fn(*args)`, with what it is about in front of an error."""
  try:
    return fn(*args)
  except (ValueError, TypeError) as e:
    raise ValueError(f'{what}: {e}') from e
