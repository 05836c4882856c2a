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
import struct
from typing import Any

from etils import epath
import numpy as np

# Far more than the largest file of the catalogue has.
_MOST_OPERATIONS = 2**20
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
  tree = _arrays(_Machine(content).run(), set(), depth=3)
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
_CONSTANTS = {b'N': None, b'\x88': True, b'\x89': False, b')': ()}
_NUMBERS = {b'J': '<i', b'K': '<B', b'M': '<H'}
_TEXTS = {b'\x8c': '<B', b'X': '<I', b'\x8d': '<Q'}
_BYTES = {b'C': '<B', b'B': '<I', b'\x8e': '<Q'}
_TUPLES = {b'\x85': 1, b'\x86': 2, b'\x87': 3}
_PUTS = {b'q': '<B', b'r': '<I'}
_GETS = {b'h': '<B', b'j': '<I'}


class _Machine:
  """The stack machine of pickles, with those operations that a file needs."""

  def __init__(self, content: bytes):
    self._content = memoryview(content)
    self._at = 0
    self._stack: list[Any] = []
    self._below: list[list[Any]] = []  # stacks under each mark
    self._memo: dict[int, Any] = {}

  def run(self) -> Any:
    """What the file holds.

    Raises:
      ValueError: what else there is, and where.
    """
    if bytes(self._content[:1]) != b'\x80':
      start = bytes(self._content[:8])
      raise ValueError(f'it is no pickle: it begins with {start}')
    at = 0
    try:
      for _ in range(_MOST_OPERATIONS):
        at = self._at
        operation = bytes(self._take(1))
        if operation == b'.':
          return self._end()
        self._do(operation)
    except ValueError as e:
      raise ValueError(f'byte {at} of {len(self._content)}: {e}') from e
    raise ValueError(f'it has more than {_MOST_OPERATIONS} operations')

  def _end(self) -> Any:
    rest = len(self._content) - self._at
    if len(self._stack) != 1 or self._below or rest:
      raise ValueError(
          f'it ends with {len(self._stack)} objects and {rest} bytes left over,'
          ' expected one object and none'
      )
    return self._stack[0]

  def _do(self, operation: bytes) -> None:
    if operation in _CONSTANTS:
      self._stack.append(_CONSTANTS[operation])
    elif operation in _NUMBERS:
      self._stack.append(self._number(_NUMBERS[operation]))
    elif operation == b'\x8a':  # a longer integer
      digits = self._take(self._number('<B'))
      self._stack.append(int.from_bytes(digits, 'little', signed=True))
    elif operation in _TEXTS:
      text = self._take(self._number(_TEXTS[operation]))
      self._stack.append(str(text, 'utf-8'))
    elif operation in _BYTES:
      self._stack.append(self._take(self._number(_BYTES[operation])))
    elif operation == b'}':
      self._stack.append({})
    elif operation in _TUPLES:
      parts = [self._pop() for _ in range(_TUPLES[operation])]
      self._stack.append(tuple(reversed(parts)))
    elif operation == b'(':
      self._below.append(self._stack)
      self._stack = []
    elif operation == b't':
      parts = self._pop_to_mark()
      self._stack.append(tuple(parts))
    elif operation in (b's', b'u'):
      self._set_items(operation)
    elif operation == b'\x94':
      self._memo[len(self._memo)] = self._top()
    elif operation in _PUTS:
      self._memo[self._number(_PUTS[operation])] = self._top()
    elif operation in _GETS:
      place = self._number(_GETS[operation])
      if place not in self._memo:
        raise ValueError('it refers to an object that is not there')
      self._stack.append(self._memo[place])
    elif operation == b'\x80':
      if (version := self._number('<B')) > 5:
        raise ValueError(f'it is a pickle of protocol {version}')
    elif operation == b'\x95':  # a frame: so many bytes at least will follow
      self._at = (at := self._at) + 8
      size = struct.unpack('<Q', self._slice(at, 8))[0]
      self._slice(self._at, size)
    elif operation == b'c':
      self._name(self._line(), self._line())
    elif operation == b'\x93':
      name, module = self._pop(), self._pop()
      self._name(module, name)
    elif operation == b'R':
      self._call()
    elif operation == b'b':
      state, target = self._pop(), self._top()
      if not isinstance(target, _Array | _Dtype):
        raise ValueError('it changes an object that is no array')
      target.build(state)
    else:
      raise ValueError(f'an operation {operation!r}, which no such file has')

  def _call(self) -> None:
    arguments, function = self._pop(), self._pop()
    call = _CALLS.get(function) if isinstance(function, _Name) else None
    if call is None or not isinstance(arguments, tuple):
      raise ValueError('it calls something else than what makes arrays')
    self._stack.append(call(*arguments))

  def _name(self, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('a name that is no text')
    if (module, name) not in _NAMES:
      raise ValueError(
          f'it names {f"{module}.{name}"[:80]!r}, which no such file has: it'
          ' may be made to run something. Nothing was run'
      )
    self._stack.append(_NAMES[module, name])

  def _set_items(self, operation: bytes) -> None:
    if operation == b's':
      value, key = self._pop(), self._pop()
      items = [key, value]
    else:
      items = self._pop_to_mark()
    target = self._top()
    keys, values = items[::2], items[1::2]
    if not isinstance(target, dict) or len(keys) != len(values):
      raise ValueError('it sets items of an object that is no dict')
    for key, value in zip(keys, values):
      if not isinstance(key, str) or key in target:
        raise ValueError('a dict with a key that is no text, or there twice')
      target[key] = value

  def _top(self) -> Any:
    if not self._stack:
      raise ValueError('it takes an object that is not there')
    return self._stack[-1]

  def _pop(self) -> Any:
    top = self._top()
    del self._stack[-1]
    return top

  def _pop_to_mark(self) -> list[Any]:
    if not self._below:
      raise ValueError('it takes objects up to a mark that is not there')
    found, self._stack = self._stack, self._below.pop()
    return found

  def _number(self, form: str) -> int:
    return struct.unpack(form, self._take(struct.calcsize(form)))[0]

  def _take(self, size: int) -> memoryview:
    found = self._slice(self._at, size)
    self._at += size
    return found

  def _slice(self, at: int, size: int) -> memoryview:
    rest = max(0, len(self._content) - at)
    if size > rest:
      raise ValueError(
          f'it is cut off or damaged: {size} bytes are to follow, there are'
          f' {rest}. Copy it again'
      )
    return self._content[at : at + size]

  def _line(self) -> str:
    end = bytes(self._content[self._at : self._at + 256]).find(b'\n')
    if end < 0:
      raise ValueError('a name without an end')
    return str(self._take(end + 1)[:-1], 'utf-8')
