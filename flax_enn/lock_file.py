"""A small JSON file that one process alone creates, and others find.

In a folder by links and renames, in a bucket by the generations of objects, on
which a request may depend: nobody else can come between a look and a change.
"""

from collections.abc import Generator, Mapping
import contextlib
import json
import os
from typing import Any, Protocol

from etils import epath

from flax_enn import storage

Content = Mapping[str, Any]

_DRIVERS = {'gs': 'gcs', 's3': 's3'}  # of TensorStore
_RETRIES = {'max_retries': 4, 'initial_delay': '1s', 'max_delay': '8s'}


class LockFile(Protocol):
  """The file; its content has a `token` that no other process's has.

  Whatever cannot be read or written at the moment is an OSError.
  """

  def create(self, content: Content) -> bool:
    """Makes it with this content; False where there is one already."""
    ...

  def read(self) -> Content | None:
    """Its content: None where there is none, {} where it is no object."""
    ...

  def replace(self, content: Content) -> None:
    """Gives it another content, after `read` has said whose it is."""
    ...

  def remove(self, token: str | None) -> None:
    """Removes it, unless it is another's by now."""
    ...


def open_file(path: epath.Path, token: str) -> LockFile:
  """The file at a path, for the process that has this token."""
  if storage.in_bucket(path):
    return _Object(path)
  return _File(path, token)


class _File:
  """In a folder."""

  def __init__(self, path: epath.Path, token: str):
    self._path = path
    self._own = path.with_name(f'{path.name}.{token}')

  def create(self, content: Content) -> bool:
    try:
      self._own.write_text(json.dumps(content))
      os.link(self._own, self._path)  # fails where the name exists
    except FileExistsError:
      return False
    finally:
      self._own.unlink(missing_ok=True)
    return True

  def read(self) -> Content | None:
    return _read(self._path)

  def replace(self, content: Content) -> None:
    try:
      self._own.write_text(json.dumps(content))
      self._own.replace(self._path)
    except OSError:
      with contextlib.suppress(OSError):
        self._own.unlink(missing_ok=True)
      raise

  def remove(self, token: str | None) -> None:
    # Renamed first: of two that come at once, one finds nothing to rename.
    with contextlib.suppress(FileNotFoundError):
      self._path.rename(self._own)
      if (_read(self._own) or {}).get('token') == token:
        self._own.unlink()
      else:
        self._own.rename(self._path)  # someone else's, taken in between


class _Object:
  """In a bucket, by the library that reads and writes checkpoints there."""

  def __init__(self, path: epath.Path):
    _, scheme, bucket, *rest = path.parts
    if scheme not in _DRIVERS:
      raise OSError('only a folder, or a bucket of gs:// or s3://, can be')
    # Imported here, since only a run in a bucket needs it so early.
    import tensorstore

    driver = _DRIVERS[scheme]
    with self._errors():
      self._store: Any = tensorstore.KvStore.open({
          'driver': driver,
          'bucket': bucket,
          'path': '/'.join(rest),
          'context': {f'{driver}_request_retries': _RETRIES},
      }).result()
    self._generation = b''

  @contextlib.contextmanager
  def _errors(self) -> Generator[None]:
    try:
      yield
    except Exception as e:  # a ValueError, mostly
      raise OSError(str(e)) from e

  def create(self, content: Content) -> bool:
    if self.read() is not None:
      return False
    if self._write(content):
      return True
    # An answer may be lost, and the request repeated.
    return (self.read() or {}).get('token') == content['token']

  def read(self) -> Content | None:
    with self._errors():
      found = self._store.read('').result()
    self._generation = found.stamp.generation
    return None if found.state == 'missing' else _parse(found.value)

  def replace(self, content: Content) -> None:
    self._write(content)

  def remove(self, token: str | None) -> None:
    found = self.read()
    if found is not None and found.get('token') == token:
      self._write(None)

  def _write(self, content: Content | None) -> bool:
    """Whether it was still what was read, and so was written or removed."""
    text = None if content is None else json.dumps(content)
    with self._errors():
      stamp = self._store.write('', text, if_equal=self._generation).result()
    return bool(stamp.generation)


def _read(path: epath.Path) -> Content | None:
  try:
    return _parse(path.read_bytes())
  except FileNotFoundError:
    return None


def _parse(text: bytes) -> Content:
  try:
    found = json.loads(text)
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}
