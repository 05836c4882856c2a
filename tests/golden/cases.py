"""Numbers recorded from DeepMind's enn, with its parameters.

A case is one `.npz` file beside `goldens/manifest.json` in the folder named by
the environment variable FLAX_ENN_GOLDENS, or in `data/`, a small part of it.
Names in a file are joined by `::`; a parameter is `params::<module>::<name>`,
of a closed-over prior network `hidden::<number>::<module>::<name>`.
"""

import dataclasses
import functools
import json
import os
from pathlib import Path
import zlib

import jax
import numpy as np
import pytest

ROOT = Path(
    os.environ.get('FLAX_ENN_GOLDENS') or Path(__file__).with_name('data')
)
RTOL = 1e-5

# Haiku parameters: module -> name -> array.
Params = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Case:
  """One recorded case.

  Attributes:
    name: `group/case`.
    meta: its entry in the manifest: `ctor`, `kwargs`, …
    arrays: by joined name, such as `in::x` or `out::preds`.
  """

  name: str
  meta: dict
  arrays: dict[str, np.ndarray]

  def __getitem__(self, name):
    return self.arrays[name]

  def __contains__(self, name):
    return name in self.arrays

  @property
  def kwargs(self) -> dict:
    return self.meta.get('kwargs', {})

  def tree(self, prefix: str) -> Params:
    """The arrays `prefix::module::name`, as Haiku keeps them."""
    tree = {}
    for joined, array in self.arrays.items():
      if joined.startswith(f'{prefix}::'):
        module, name = joined.removeprefix(f'{prefix}::').split('::', 1)
        tree.setdefault(module, {})[name] = array
    return tree

  def params(self) -> Params:
    return self.tree('params')

  def state(self) -> Params:
    return self.tree('state')

  def hidden(self, tag: str) -> Params:
    return self.tree(f'hidden::{tag}')

  def hidden_tags(self) -> list[str]:
    tags = {k.split('::')[1] for k in self.arrays if k.startswith('hidden::')}
    return sorted(tags, key=lambda tag: (len(tag), tag))


@functools.cache
def manifest() -> dict[str, dict]:
  """The entry of every case there is, by name."""
  return json.loads((ROOT / 'goldens' / 'manifest.json').read_text())['cases']


def load_case(name: str) -> Case:
  """Reads a case; skips the test that asks for one that is not there."""
  if name not in manifest():
    pytest.skip(f'{name} is not among the golden cases in {ROOT}')
  meta = manifest()[name]
  with np.load(ROOT / 'goldens' / meta['file']) as file:
    arrays = dict(file)
  return Case(name, meta, {**_rules(meta), **arrays})


def names(required: str, ctors=()) -> list[str]:
  """Names of cases: those required, and those there are of some `ctors`.

  Args:
    required: `group/case case …`: these are in the list, there or not.
    ctors: constructors in enn; whatever case was recorded from them is tested.
  """
  group, cases = required.split('/')
  found = [n for n, meta in manifest().items() if meta['ctor'] in ctors]
  return sorted({f'{group}/{case}' for case in cases.split()} | set(found))


def assert_close(got, expected, rtol=RTOL, floor=0.1, largest=None):
  """Equal to `rtol`, relative to each entry plus a part of the largest one.

  Args:
    got: an array.
    expected: of the same shape.
    rtol: 1e-5, but where a test says why it cannot be.
    floor: that part.
    largest: the largest entry there is; that of `expected` by default.
  """
  got, expected = np.asarray(got), np.asarray(expected)
  assert got.shape == expected.shape
  if largest is None:
    largest = np.abs(expected).max(initial=0)
  atol = rtol * floor * largest
  np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)


def assert_gradients_close(got, expected):
  """Equal to 1e-5, relative to each entry plus a tenth of the largest of all.

  For trees with gradients that are 0 but for rounding: that of a bias in front
  of a batch norm, and that of the bias of an attention's keys.
  """
  largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
  close = functools.partial(assert_close, largest=largest)
  jax.tree.map(close, got, expected)


def _rules(meta: dict) -> dict[str, np.ndarray]:
  """Parameters that are not stored, since a rule gives them from their name."""
  arrays = {}
  for kind in ('params', 'state'):
    for name, (shape, dtype) in (meta.get(f'{kind}_recipe') or {}).items():
      arrays[f'{kind}::{name}'] = _rule(name, shape, dtype)
  spec = meta.get('hidden_recipe') or {}
  tags = meta.get('hidden_recipe_tags') or {'base': list(spec)}
  for tag, members in tags.items():
    for name in members:
      arrays[f'hidden::{tag}::{name}'] = _rule(name, *spec[name])
  return arrays


def _rule(name: str, shape: list[int], dtype: str) -> np.ndarray:
  """Normal draws seeded by a parameter's name and scaled as its kind is."""
  if np.issubdtype(dtype, np.integer):
    return np.full(shape, 3, dtype)
  seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
  draws = np.random.RandomState(seed)
  draw = np.float32(draws.standard_normal(tuple(shape)))
  leaf = [part for part in name.split('::') if not part.isdigit()][-1]
  if 'var_ema' in name:
    draw = 0.7 + 0.2 * np.abs(draw)
  elif 'mean_ema' in name or leaf in ('offset', 'b'):
    draw = 0.1 * draw
  elif leaf == 'scale':
    draw = 1 + 0.1 * draw
  elif len(shape) > 1:
    draw = draw / np.sqrt(np.prod(shape[:-1]))
  else:
    draw = 0.3 * draw
  return np.asarray(draw, dtype)
