"""Several views of every test example, one after the other."""

from collections.abc import Callable
import copy
import dataclasses
from typing import Any

import jax
import numpy as np

from flax_enn.data.augmentation import random_flip, random_zoom
from flax_enn.data.base import Element, Source, Wrapped, check_numbers
from flax_enn.data.preprocess import decode
from flax_enn.data.row_generators import OneRow

# Of x as it is stored, and a generator to draw from: x of the same form.
Perturb = Callable[[Any, np.random.Generator], Any]


@dataclasses.dataclass(frozen=True)
class Repeated(Wrapped):
  """A test split in which each example comes `times` in a row, perturbed.

  Joint predictions of neighbours then tell ambiguity from ignorance: with
  `times=2` the pairs of the dyadic log-loss are two views of one image. enn's
  `make_dyadic_transform`, and with `perturb` `make_repeat_sample_transform`. As
  there, every view is perturbed, the first too. The training split is left as
  it is, and so are labels and weights.

  A view depends on its number and the seed alone. Inputs of any form take a
  function of one's own:

    Repeated(TwoMoons(), perturb=lambda x, rng: x + 0.1 * rng.normal(size=2))

  In a config it is a frozen dataclass with `__call__(x, rng)`, by its module:

    {'name': 'repeated', 'dataset': {'name': 'two_moons'},
     'perturb': {'name': 'package.module:Class', 'field': 0.1}}

  Attributes:
    dataset: of images of bytes; of anything where none is cropped or flipped.
    times: views of each example.
    limit: views in all, at most; None for all there are.
    crop: pixels by which the window is smaller that is cut out at random, and
      brought back to size; None for 4, or 0 where there is a `perturb`.
    flip: whether each view is mirrored or not, at random; None for True, or
      False where there is a `perturb`.
    seed: of the perturbations, with the number of the view.
    perturb: from a copy of x as it is stored (an image that is a file comes
      decoded) and a generator to x, after crop and flip; floats are brought to
      the dtype of x. None for none. Where `workers` read, it must pickle.
  """

  times: int = 2
  limit: int | None = None
  crop: int | None = None
  flip: bool | None = None
  seed: int = 0
  perturb: Perturb | None = None

  def __post_init__(self):
    above_0 = ('times',) if self.limit is None else ('times', 'limit')
    from_0 = ('seed',) if self.crop is None else ('seed', 'crop')
    check_numbers(self, above_0, from_0)
    if self.perturb is not None and not callable(self.perturb):
      raise ValueError(
          f'perturb is {self.perturb!r}; expected None or a function of x and a'
          ' numpy Generator'
      )

  def load(self, split: str) -> Source:
    source = self.dataset.load(split)
    if split == 'train':
      return source
    whole = len(source) * self.times
    length = whole if self.limit is None else min(self.limit, whole)
    shape = getattr(self.input_spec, 'shape', ())
    crop, flip = self.crop, self.flip
    images = self.perturb is None
    return _Views(
        source=source,
        how=self,
        crop=4 * images if crop is None else crop,
        flip=images if flip is None else flip,
        length=length,
        channels=shape[-1] if len(shape) == 3 else 0,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Views:
  """The views of the examples of a source, in order.

  Attributes:
    source: of the examples.
    how: they are perturbed.
    crop: pixels, see `Repeated`.
    flip: likewise.
    length: number of views.
    channels: of images; 0 where x is something else.
  """

  source: Source
  how: Repeated
  crop: int
  flip: bool
  length: int
  channels: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Element:
    element = dict(self.source[index // self.how.times])
    perturb, images = self.how.perturb, self.crop or self.flip
    if not images and perturb is None:
      return element
    x, rng = element['x'], np.random.default_rng([self.how.seed, index])
    if isinstance(x, bytes) and self.channels:
      x = decode(x, self.channels)
    if images:
      x = self._cropped(x, rng)
    if perturb is not None:
      # A copy: a function that adds in place would change the data themselves.
      x = jax.tree.map(_in_dtype_of, x, perturb(copy.deepcopy(x), rng))
    return {**element, 'x': x}

  def _cropped(self, x: Any, rng: np.random.Generator) -> np.ndarray:
    if getattr(x, 'dtype', None) != np.uint8 or x.ndim != 3:
      raise ValueError(
          'only images of bytes can be cropped and flipped; set crop to 0 and'
          ' flip to False'
      )
    one = OneRow(rng)
    x = random_zoom(x[None], self.crop, one)
    return (random_flip(x, one) if self.flip else x)[0]


def _in_dtype_of(stored: Any, x: Any) -> Any:
  """x, in the dtype of what is stored where both are floats."""
  kinds = [getattr(getattr(a, 'dtype', None), 'kind', '') for a in (stored, x)]
  return x.astype(stored.dtype) if kinds == ['f', 'f'] else x
