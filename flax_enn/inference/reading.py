"""Inputs of a predictor from files: images, arrays, folders, labels."""

from collections.abc import Iterator, Sequence
import csv
from typing import Any, NamedTuple

from etils import epath
import jax
import numpy as np

from flax_enn import build
from flax_enn.data.base import Source
from flax_enn.data.npz import read_npy, read_npz
from flax_enn.inference import images
from flax_enn.inference.checked_input import targets
from flax_enn.model import Model

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.gif', '.tif', '.tiff', '.webp')


class Inputs(NamedTuple):
  """Inputs with their names, and what is known of their labels.

  Attributes:
    names: of each: a path, or `data.npz[3]`.
    x: `[B, ...]` as the network takes them.
    y: `[B, ...]` labels or targets; None where they are not known.
  """

  names: list[str]
  x: Any
  y: np.ndarray | None = None


def read(model: Model, paths: Sequence[str]) -> Inputs:
  """Reads and preprocesses images, `.npy`, `.npz` and folders of images.

  A `.npz` file has the inputs in `x` and, if they are known, labels in `y`.

  Raises:
    ValueError: which file is what, and what was expected.
  """
  found = [_read_one(model, path) for path in paths]
  if not found:
    raise ValueError(
        'there are no inputs: give images, .npy or .npz files, or folders'
    )
  known = [inputs.y for inputs in found if inputs.y is not None]
  return Inputs(
      [name for inputs in found for name in inputs.names],
      jax.tree.map(lambda *a: np.concatenate(a), *[i.x for i in found]),
      np.concatenate(known) if len(known) == len(found) else None,
  )


def read_labelled(model: Model, path: str) -> Inputs:
  """Reads evidence: a `.npz` file with x and y, or a table of labels.

  The table is CSV with the columns `input` and `label`: the path of an image
  (from the table's own folder, or from here) or `data.npz[3]`, and the number
  or name of its class (or its target).

  Raises:
    ValueError: what was found, and what was expected.
  """
  if path.endswith('.npz'):
    inputs = _read_one(model, path)
    if inputs.y is None:
      raise ValueError(f'{path} has no array y, the labels of its x')
    return inputs
  table = epath.Path(path).expanduser()
  if not table.is_file():
    raise ValueError(f'{path} is not a file; expected a .csv or .npz of labels')
  try:
    rows = list(csv.DictReader(table.read_text().splitlines()))
  except (UnicodeDecodeError, csv.Error) as e:
    raise ValueError(f'{path} cannot be read as CSV: {e}') from e
  if not rows or not {'input', 'label'} <= rows[0].keys():
    found = list(rows[0]) if rows else 'nothing'
    raise ValueError(f'{path} has {found}; expected columns input and label')
  names = [row['input'] or '' for row in rows]
  arrays: dict[str, Inputs] = {}
  xs, labels = [], []
  for line, (name, row) in enumerate(zip(names, rows), start=2):
    with build.located(f'{path}, line {line}'):
      xs.append(_named(model, name, table.parent, arrays))
      labels.append(_label(model, row['label'] or ''))
  y = targets(model, np.array(labels), f'{path}: label')
  return Inputs(names, jax.tree.map(lambda *a: np.stack(a), *xs), y)


def read_split(model: Model, source: Source, name: str) -> Inputs:
  """Preprocesses the examples of a data set: `name[0]`, `name[1]` and on."""
  elements = [source[i] for i in range(len(source))]
  xs = [model.preprocess(e['x']) for e in elements]
  return Inputs(
      [f'{name}[{i}]' for i in range(len(elements))],
      jax.tree.map(lambda *a: np.stack(a), *xs),
      targets(model, np.stack([e['y'] for e in elements]), name),
  )


def _read_one(model: Model, path: str) -> Inputs:
  folder = epath.Path(path).expanduser()
  if folder.is_dir():
    files = sorted(_images_below(folder))
    if not files:
      raise ValueError(f'{path} has no image ({", ".join(IMAGES)}) in it')
    xs = [images.preprocess(model, file) for file in files]
    return Inputs(files, np.stack(xs))
  if path.endswith('.npy'):
    with build.located(path):
      x = read_npy(path)
    return _of_arrays(model, path, {'x': x})
  if path.endswith('.npz'):
    with build.located(path):
      arrays = read_npz(path)
    return _of_arrays(model, path, arrays)
  return Inputs([path], images.preprocess(model, path)[None])


def _images_below(folder: epath.Path) -> Iterator[str]:
  for path in folder.iterdir():
    if path.is_dir():
      yield from _images_below(path)
    elif path.suffix.lower() in IMAGES:
      yield str(path)


def _of_arrays(
    model: Model, path: str, arrays: dict[str, np.ndarray]
) -> Inputs:
  if 'x' not in arrays or not arrays['x'].ndim or not len(arrays['x']):
    shapes = {k: list(v.shape) for k, v in arrays.items()}
    raise ValueError(f'{path} has {shapes}; expected inputs x of shape [B, …]')
  xs = []
  for i, x in enumerate(arrays['x']):
    # float64 is what numpy makes unasked.
    x = x.astype(np.float32) if x.dtype == np.float64 else x
    with build.located(f'{path}[{i}]'):
      xs.append(images.preprocess(model, x))
  y = arrays.get('y')
  if y is not None:
    y = targets(model, y, f'{path}: y')
    if len(y) != len(xs):
      raise ValueError(f'{path} has {len(xs)} inputs x, but {len(y)} labels y')
  names = [f'{path}[{i}]' for i in range(len(xs))]
  return Inputs(names, jax.tree.map(lambda *a: np.stack(a), *xs), y)


def _named(
    model: Model, name: str, folder: epath.Path, arrays: dict[str, Inputs]
) -> Any:
  """The input of this name, from a folder or from here."""
  file, bracket, number = name.partition('[')
  path = folder / file
  path = str(path if path.exists() else epath.Path(file).expanduser())
  if not bracket:
    return images.preprocess(model, path)
  if path not in arrays:
    arrays[path] = _read_one(model, path)
  number, x = number.removesuffix(']'), arrays[path].x
  if not number.isdecimal() or int(number) >= len(jax.tree.leaves(x)[0]):
    raise ValueError(
        f'there is no input {name!r}: {path} has the rows 0 to'
        f' {len(arrays[path].names) - 1}'
    )
  return jax.tree.map(lambda a: a[int(number)], x)


def _label(model: Model, text: str) -> Any:
  """A class by name or number, or a target."""
  text = text.strip()
  if text in model.class_names:
    return model.class_names.index(text)
  try:
    if model.likelihood.num_classes is not None:
      return int(text)
    return [float(number) for number in text.split()]
  except ValueError as e:
    names = ', '.join(model.class_names[:10])
    expected = 'a class number' + (f' or name ({names} …)' if names else '')
    if model.likelihood.num_classes is None:
      expected = 'numbers with spaces between'
    raise ValueError(f'label {text!r}; expected {expected}') from e
