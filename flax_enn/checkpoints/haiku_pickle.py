"""Reads the pickles of DeepMind's catalogue, and runs nothing that is in them.

The files of enn (`.npzs`) are pickles, written with dill: nested dicts of numpy
arrays by the names of Haiku. A pickle is a program: Python's own reader calls
whatever it names. This one knows the few operations that such a file consists
of, and these names, for each of which it has a stand-in that only looks:

  numpy.core.multiarray, numpy._core.multiarray  _reconstruct
  numpy                                          ndarray, dtype
  dill._dill                                     _create_array
  haiku._src.data_structures         FlatMapping, FlatMap, frozendict

Arrays are of plain numbers, and no size that a file claims is believed: memory
is that of the file and of some objects for each operation.
"""

from collections.abc import Callable
import dataclasses
import enum
import math
from typing import Any

from etils import epath
import numpy as np

from flax_enn.checkpoints.pickle_machine import Machine

_MOST_AXES = 8
_DTYPES = {
    f'{kind}{size}' for kind in 'fiu' for size in (1, 2, 4, 8)
} - {'f1'}  # fmt: skip


class _Name(enum.Enum):
  """What a file may name."""

  RECONSTRUCT = '_reconstruct'
  NDARRAY = 'ndarray'
  DTYPE = 'dtype'
  CREATE_ARRAY = '_create_array'
  MAPPING = 'a mapping of Haiku'


_HAIKU = 'haiku._src.data_structures'
_NAMES = {
    ('numpy.core.multiarray', '_reconstruct'): _Name.RECONSTRUCT,
    ('numpy._core.multiarray', '_reconstruct'): _Name.RECONSTRUCT,
    ('numpy', 'ndarray'): _Name.NDARRAY,
    ('numpy', 'dtype'): _Name.DTYPE,
    ('dill._dill', '_create_array'): _Name.CREATE_ARRAY,
    ('dill.dill', '_create_array'): _Name.CREATE_ARRAY,
    (_HAIKU, 'FlatMapping'): _Name.MAPPING,
    (_HAIKU, 'FlatMap'): _Name.MAPPING,
    (_HAIKU, 'frozendict'): _Name.MAPPING,
}


@dataclasses.dataclass(eq=False)
class _Dtype:
  """Stands for a dtype, `f4`; its byte order comes later."""

  code: str
  order: str = '='

  def build(self, state: Any) -> None:
    fields = state if isinstance(state, tuple) else ()
    # Version, byte order; nothing that makes a record, or an object, of it.
    plain = len(fields) == 8 and all(f is None for f in fields[2:5])
    if not plain or fields[1] not in ('<', '>', '|', '='):
      raise ValueError(f'a dtype {self.code!r} that is not of plain numbers')
    self.order = fields[1]

  @property
  def numpy(self) -> np.dtype[Any]:
    return np.dtype(f'{self.order}{self.code}')


@dataclasses.dataclass(eq=False)
class _Array:
  """Stands for an array; what is in it comes later."""

  value: np.ndarray | None = None

  def build(self, state: Any) -> None:
    fields = state if isinstance(state, tuple) else ()
    kinds = (int, tuple, _Dtype, bool, memoryview)
    if len(fields) != 5 or not all(map(isinstance, fields, kinds)):
      raise ValueError('an array that is not written as numpy writes it')
    _, shape, dtype, columns_first, content = fields
    sizes = all(type(n) is int and 0 < n < 2**48 for n in shape)
    if not sizes or len(shape) > _MOST_AXES:
      raise ValueError('an array of no size, or of no possible one')
    expected = math.prod(shape) * dtype.numpy.itemsize
    if len(content) != expected:
      raise ValueError(
          f'an array {dtype.code}{list(shape)} of {len(content)} bytes,'
          f' expected {expected}'
      )
    flat = np.frombuffer(content, dtype.numpy)
    flat = flat.astype(flat.dtype.newbyteorder('='), copy=False)
    self.value = flat.reshape(shape, order='F' if columns_first else 'C')


def read(path: epath.PathLike) -> tuple[dict[str, Any], bytes]:
  """Reads a file of the catalogue.

  Args:
    path: of the file.

  Returns:
    Nested dicts with arrays as leaves, views of what was read; and the content
    of the file.

  Raises:
    ValueError: the file is not there, is damaged, or has in it what no such
      file has. Nothing that it names was looked up, let alone called.
  """
  path = epath.Path(path)
  try:
    content = path.read_bytes()
  except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as e:
    raise ValueError(f'{path} is not there, or no file') from e
  try:
    return loads(content), content
  except ValueError as e:
    raise ValueError(f'{path} is no file of the catalogue: {e}') from e


def loads(content: bytes) -> dict[str, Any]:
  """The same of the content of a file."""
  tree = _arrays(Machine(content, _find, _call).run(), set(), depth=3)
  if not isinstance(tree, dict):
    raise ValueError('it holds an array, expected a dict of them')
  return tree


def _arrays(tree: Any, seen: set[int], depth: int) -> Any:
  """Nested dicts with arrays in the place of their stand-ins."""
  if isinstance(tree, _Array) and tree.value is not None:
    return tree.value
  if not isinstance(tree, dict) or not depth:
    what = tree.value if isinstance(tree, _Name) else type(tree).__name__
    raise ValueError(f'it holds {what!r} where arrays are expected')
  if id(tree) in seen:  # or a small file could say endlessly much
    raise ValueError('it holds the same dict twice')
  seen.add(id(tree))
  return {k: _arrays(v, seen, depth - 1) for k, v in tree.items()}


def _create_array(*args: Any) -> _Array:
  """As dill's, of the arguments and the state of `_reconstruct` alone."""
  function, arguments, state, *attributes = [*args, *[None] * (3 - len(args))]
  if function is not _Name.RECONSTRUCT or attributes not in ([], [None], [{}]):
    raise ValueError('an array that is made by something else than numpy')
  array = _reconstruct(*(arguments if isinstance(arguments, tuple) else ()))
  array.build(state)
  return array


def _reconstruct(*args: Any) -> _Array:
  cls, *rest = args or (None,)
  if cls is not _Name.NDARRAY or len(rest) != 2:
    raise ValueError('an array of another class than that of numpy')
  return _Array()


def _dtype(*args: Any) -> _Dtype:
  code = args[0] if args else None
  if not isinstance(code, str) or code not in _DTYPES:
    shown = repr(code)[:40] if isinstance(code, str) else 'no name'
    raise ValueError(f'a dtype {shown}; expected one of {sorted(_DTYPES)}')
  return _Dtype(code)


def _mapping(*args: Any) -> dict[str, Any]:
  if len(args) != 1 or not isinstance(args[0], dict):
    raise ValueError('a mapping of Haiku that is made of something else')
  return args[0]


_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name.RECONSTRUCT: _reconstruct,
    _Name.CREATE_ARRAY: _create_array,
    _Name.DTYPE: _dtype,
    _Name.MAPPING: _mapping,
}


def _find(module: str, name: str) -> _Name:
  """The stand-in for what a file names."""
  if (module, name) not in _NAMES:
    raise ValueError(
        f'it names {f"{module}.{name}"[:80]!r}, which no such file has: it may'
        ' be made to run something. Nothing was run'
    )
  return _NAMES[module, name]


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
  """What a file wants to be called, by its stand-in."""
  call = _CALLS.get(function) if isinstance(function, _Name) else None
  if call is None:
    raise ValueError('it calls something else than what makes arrays')
  return call(*arguments)
