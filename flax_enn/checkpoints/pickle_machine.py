"""The stack machine of pickles, with few of its operations.

A pickle is a program for it. This one has the operations that nested dicts of
arrays need, and what looks names up and calls them is handed to it. Every size
that a file claims is checked against what there is of the file.
"""

from collections.abc import Callable
import struct
from typing import Any, Protocol, runtime_checkable

# Far more than the largest file of the catalogue has.
_MOST_OPERATIONS = 2**20

_CONSTANTS = {b'N': None, b'\x88': True, b'\x89': False, b')': ()}
_NUMBERS = {b'J': '<i', b'K': '<B', b'M': '<H'}
_TEXTS = {b'\x8c': '<B', b'X': '<I', b'\x8d': '<Q'}
_BYTES = {b'C': '<B', b'B': '<I', b'\x8e': '<Q'}
_TUPLES = {b'\x85': 1, b'\x86': 2, b'\x87': 3}
_PUTS = {b'q': '<B', b'r': '<I'}
_GETS = {b'h': '<B', b'j': '<I'}


@runtime_checkable
class Unfinished(Protocol):
  """An object whose state comes after it."""

  def build(self, state: Any) -> None:
    """Sets the state."""


class Machine:
  """Runs one file, of any protocol from 2 on."""

  def __init__(
      self,
      content: bytes,
      find: Callable[[str, str], Any],
      call: Callable[[Any, tuple[Any, ...]], Any],
  ):
    """Takes the content of a file.

    Args:
      content: of the file.
      find: module, name -> what stands for it, or a ValueError.
      call: what stands for a function, its arguments -> the result.
    """
    self._find, self._call = find, call
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
      arguments, function = self._pop(), self._pop()
      if not isinstance(arguments, tuple):
        raise ValueError('it calls with arguments that are no tuple')
      self._stack.append(self._call(function, arguments))
    elif operation == b'b':
      state, target = self._pop(), self._top()
      if not isinstance(target, Unfinished):
        raise ValueError('it changes an object that is no array')
      target.build(state)
    else:
      raise ValueError(f'an operation {operation!r}, which no such file has')

  def _name(self, module: Any, name: Any) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
      raise ValueError('a name that is no text')
    self._stack.append(self._find(module, name))

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
