"""Test images as a bad camera has them."""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from flax_enn.data.base import Element, Source, Wrapped, check_numbers
from flax_enn.data.preprocess import decode


def _noise(x, amount, rng):
  return x + amount * rng.normal(size=x.shape)


def _shot(x, amount, rng):
  return rng.poisson(x * amount) / amount


def _blur(x, amount, rng):
  """A Gaussian of deviation `amount`, along both axes; edges are repeated."""
  del rng
  reach = max(1, round(3 * amount))
  taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / amount))
  for axis in (0, 1):
    pad = [(0, 0)] * x.ndim
    pad[axis] = (reach, reach)
    padded = np.pad(x, pad, mode='edge')
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, len(taps), axis
    )
    x = windows @ (taps / taps.sum())
  return x


def _contrast(x, amount, rng):
  del rng
  mean = x.mean(axis=(0, 1))
  return mean + amount * (x - mean)


def _brightness(x, amount, rng):
  del rng
  return x + amount


# What is done to an image in [0, 1], and how much at each severity.
_KINDS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    'gaussian_noise': (_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    'shot_noise': (_shot, (500, 250, 100, 75, 50)),
    'gaussian_blur': (_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    'contrast': (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    'brightness': (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
}


@dataclasses.dataclass(frozen=True)
class Corrupted(Wrapped):
  """A data set whose test images are corrupted; the training split is not.

  Kinds and steps after Hendrycks and Dietterich, "Benchmarking Neural Network
  Robustness to Common Corruptions" (arXiv:1903.12261), for small images; an
  image's corruption depends on its number and the seed alone.

  Attributes:
    dataset: of images, as bytes or encoded.
    kind: `gaussian_noise`, `shot_noise`, `gaussian_blur`, `contrast` or
      `brightness`.
    severity: 1 to 5.
    seed: of what is random.
  """

  kind: str = 'gaussian_noise'
  severity: int = 3
  seed: int = 0

  def __post_init__(self):
    if self.kind not in _KINDS:
      raise ValueError(f'kind is {self.kind!r}; known: {", ".join(_KINDS)}')
    if not 1 <= self.severity <= 5:
      raise ValueError(f'severity is {self.severity}; it is from 1 to 5')
    check_numbers(self, (), ('seed',))

  def load(self, split: str) -> Source:
    source = self.dataset.load(split)
    return source if split == 'train' else _Corrupt(source, self)


@dataclasses.dataclass(frozen=True, eq=False)
class _Corrupt:
  """The corrupted examples of a source."""

  source: Source
  how: Corrupted

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int) -> Element:
    element = dict(self.source[index])
    x = element['x']
    if isinstance(x, bytes):
      x = decode(x, self.how.input_spec.shape[-1])
    if getattr(x, 'dtype', None) != np.uint8 or x.ndim != 3:
      raise ValueError(
          f'kind is {self.how.kind!r}, which is for images of bytes [height,'
          ' width, channels]; leave this data set out'
      )
    change, amounts = _KINDS[self.how.kind]
    rng = np.random.default_rng([self.how.seed, index])
    x = change(x / 255, amounts[self.how.severity - 1], rng)
    element['x'] = np.round(255 * np.clip(x, 0, 1)).astype(np.uint8)
    return element
