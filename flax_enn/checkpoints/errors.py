"""What can be wrong with a checkpoint that is read."""

from collections.abc import Callable, Generator
import contextlib
from typing import TypeVar

from etils import epath

from flax_enn import storage

T = TypeVar('T')


class DamagedCheckpointError(RuntimeError):
  """A checkpoint that was finished once and is no longer what was saved."""


class StorageError(OSError):
  """Storage that cannot be read now; what lies there may well be whole."""


class MisfitError(ValueError):
  """A checkpoint that is not of this network and optimizer."""


@contextlib.contextmanager
def sort_errors(path: epath.Path) -> Generator[None]:
  """Says of whatever a reader raises which of two kinds it is.

  Orbax has no error of its own for a damaged file: the parser of that file
  speaks (JSON, zarr, OCDBT, a missing key …), so every exception counts but
  those that say nothing of the file.

  Raises:
    StorageError: the file could not be read, and may be whole.
    DamagedCheckpointError: it was read, and is damaged.
  """
  try:
    yield
  except MemoryError:
    raise
  except Exception as error:
    reason = str(error).strip().partition('\n')[0][:200]
    what = f'cannot read {path} ({type(error).__name__}: {reason})'
    if any(map(storage.is_transient, _chain(error))):
      raise StorageError(what) from error
    raise DamagedCheckpointError(what) from error


def _chain(error: BaseException | None) -> Generator[BaseException]:
  """An error and those that it was raised from."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__


def read(path: epath.Path, reader: Callable[[], T]) -> T:
  """What `reader` reads at `path`, which it tries again for a while.

  Raises:
    StorageError, DamagedCheckpointError: as `sort_errors`.
  """

  def attempt() -> T:
    with sort_errors(path):
      return reader()

  return storage.retry(attempt, lambda e: isinstance(e, StorageError))
