"""Storage that fails: which errors are transient, retries, and full disks."""

from collections.abc import Callable, Generator
import contextlib
import errno
import re
import time
from typing import TypeVar

from absl import logging
from etils import epath

T = TypeVar('T')

# These say that a file is not there, or not what it was: no second try helps.
_PERMANENT = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# What TensorFlow, by which epath reaches a bucket, says of a fault that may
# pass, in an error that is no OSError: cancelled, unknown, deadline exceeded,
# permission denied, resource exhausted, aborted (it has tried ten times),
# internal, unavailable, unauthenticated.
_TRANSIENT_CODES = {1, 2, 4, 7, 8, 10, 13, 14, 16}
# What TensorStore calls them, within a ValueError; it says DATA_LOSS,
# OUT_OF_RANGE, NOT_FOUND … of what is damaged. UNKNOWN is how it knows an
# input/output error.
_TRANSIENT = re.compile(
    r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED'
    r'|RESOURCE_EXHAUSTED|ABORTED|CANCELLED|UNKNOWN|INTERNAL)\b:'
)
# Seconds between tries to read what storage does not give.
BACK_OFF = (1.0, 4.0, 16.0)
# Of a disk that takes nothing more.
FULL = (errno.ENOSPC, errno.EDQUOT)
# How TensorStore and TensorFlow say it, and that they may not write.
_DISK_ERRORS = re.compile(
    'RESOURCE_EXHAUSTED|PERMISSION_DENIED|os_error_code|No space left|quota'
)


def in_bucket(path: epath.PathLike) -> bool:
  """Whether a path is of a bucket, which has objects, and no folders."""
  return '://' in str(path)


@contextlib.contextmanager
def disk_errors_named(workdir: epath.Path) -> Generator[None]:
  """Names the workdir in what its disk and those who write to it raise.

  Raises:
    OSError: the workdir cannot be read or written.
  """
  try:
    yield
  except Exception as e:
    # A writer in a thread of its own gives the cause of its end.
    cause = None if isinstance(e, ValueError) else e.__cause__
    if not any(_is_of_disk(error, str(workdir)) for error in (e, cause)):
      raise
    reason = f'{type(e).__name__}: {str(cause or e)[:300]}'
    raise OSError(
        f'--workdir={workdir} cannot be read or written ({reason}). Make room,'
        ' or mend its permissions, and the same command goes on from what was'
        ' saved; or choose another'
    ) from e


def _is_of_disk(error: BaseException | None, workdir: str) -> bool:
  if isinstance(error, OSError):
    inside = str(error.filename or '').startswith(workdir)
    return inside or error.errno in FULL
  if error is None or workdir not in str(error):
    return False
  return is_transient(error) or bool(_DISK_ERRORS.search(str(error)))


def is_transient(error: BaseException) -> bool:
  """Whether storage could not be reached, and may well hold what it did."""
  if isinstance(error, OSError):
    return not isinstance(error, _PERMANENT)
  code = getattr(error, 'error_code', None)
  return code in _TRANSIENT_CODES or bool(_TRANSIENT.search(str(error)))


def read_bytes(path: epath.Path) -> bytes:
  """What a file holds; where storage does not give it, it is asked again.

  Raises:
    OSError: the file is not there, or cannot be read for longer.
  """
  try:
    return retry(path.read_bytes, is_transient)
  except Exception as e:
    if isinstance(e, OSError) or not is_transient(e):
      raise
    raise OSError(f'{path} cannot be read: {e}') from e


def retry(read: Callable[[], T], passes: Callable[[Exception], bool]) -> T:
  """What `read` returns, which is tried again for a while (see BACK_OFF).

  `passes` says of an error whether another try may help.
  """
  for seconds in BACK_OFF:
    try:
      return read()
    except Exception as e:
      if not passes(e):
        raise
      logging.warning('%s; trying again in %d s', e, seconds)
      time.sleep(seconds)
  return read()
