"""The files in the folder of a run: atomic writes, and reads that explain."""

from collections.abc import Callable, Generator, Mapping, Sequence
import contextlib
import errno
import json
import os
import re
import time
from typing import Any, TypeVar

from absl import logging
from etils import epath
import jax
import ml_collections

T = TypeVar('T')
# What may differ when a run goes on: how it is laid out, evaluated, kept; how
# its data are read, and from where.
MUTABLE_ON_RESUME = (
    'mesh', 'sharding', 'eval', 'evals', 'checkpoint', 'num_steps',
    'dataset.workers', 'dataset.read_ahead', 'dataset.skip_bad',
    'dataset.data_dir', 'dataset.path',
)  # fmt: skip

# These say that a file is not there, or not what it was: no second try helps.
LOSS = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# What TensorFlow, by which epath reaches a bucket, says of a fault that may
# pass, in an error that is no OSError: cancelled, unknown, deadline exceeded,
# permission denied, resource exhausted, aborted (it has tried ten times),
# internal, unavailable, unauthenticated.
_PASSING_CODES = {1, 2, 4, 7, 8, 10, 13, 14, 16}
# What TensorStore calls them, within a ValueError; it says DATA_LOSS,
# OUT_OF_RANGE, NOT_FOUND … of what is damaged. UNKNOWN is how it knows an
# input/output error.
_PASSING = re.compile(
    r'\b(UNAVAILABLE|DEADLINE_EXCEEDED|PERMISSION_DENIED|UNAUTHENTICATED'
    r'|RESOURCE_EXHAUSTED|ABORTED|CANCELLED|UNKNOWN|INTERNAL)\b:'
)
# Seconds between tries to read what storage does not give.
BACK_OFF = (1.0, 4.0, 16.0)
IMPORT = 'import.json'  # where the weights of an imported run are from
# Of a disk that takes nothing more.
FULL = (errno.ENOSPC, errno.EDQUOT)
# How TensorStore and TensorFlow say it, and that they may not write.
_SAYS = re.compile(
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
  return may_pass(error) or bool(_SAYS.search(str(error)))


def may_pass(error: BaseException) -> bool:
  """Whether storage could not be reached, and may well hold what it did."""
  if isinstance(error, OSError):
    return not isinstance(error, LOSS)
  code = getattr(error, 'error_code', None)
  return code in _PASSING_CODES or bool(_PASSING.search(str(error)))


def atomic_write(path: epath.Path, content: bytes, process: int = 0) -> None:
  """Writes a file from one process so that no reader ever sees half of it.

  Not after a crash of the machine either: the content is on the disk before it
  gets its name, and the name before this returns.
  """
  if jax.process_index() != process:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  part = _part(path)
  with part.open('wb') as file:
    file.write(content)
    file.flush()
    _sync(file)
  part.replace(path)
  with contextlib.suppress(OSError):  # a bucket has no folders
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)


def _sync(file: Any) -> None:
  """Brings a local file to the disk; a bucket has it once it is closed."""
  try:
    descriptor = file.fileno()
  except (AttributeError, OSError):
    return
  os.fsync(descriptor)


def check_new(folder: epath.Path) -> None:
  """Raises a ValueError where a folder cannot be written as a whole."""
  if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
    raise ValueError(
        f'{folder} exists and is not an empty folder; choose another --out'
    )
  if (part := _part(folder)).exists():
    raise ValueError(
        f'{part} exists: another command writes it, or was killed. Remove it,'
        ' or choose another --out'
    )


@contextlib.contextmanager
def written_whole(folder: epath.Path) -> Generator[epath.Path]:
  """Yields a folder to write to, which gets its name once all is in it.

  After an error there is nothing.
  """
  check_new(folder)
  part = _part(folder)
  part.mkdir(parents=True)
  try:
    yield part
    if folder.exists():
      folder.rmdir()
    part.rename(folder)
  except BaseException:
    part.rmtree()
    raise


def _part(path: epath.Path) -> epath.Path:
  return path.with_name(f'{path.name}.part')


def write_json(path: epath.Path, content: Any, process: int = 0) -> None:
  """Writes JSON that a person can read, from one process."""
  atomic_write(path, to_json(content), process)


def to_json(content: Any) -> bytes:
  """A file of JSON that a person can read."""
  text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
  return f'{text}\n'.encode()


def read_bytes(path: epath.Path) -> bytes:
  """What a file holds; where storage does not give it, it is asked again.

  Raises:
    OSError: the file is not there, or cannot be read for longer.
  """
  try:
    return read_again(path.read_bytes, may_pass)
  except Exception as e:
    if isinstance(e, OSError) or not may_pass(e):
      raise
    raise OSError(f'{path} cannot be read: {e}') from e


def read_again(read: Callable[[], T], passes: Callable[[Exception], bool]) -> T:
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


def read_json(path: epath.Path) -> dict[str, Any]:
  """Reads a file of a run, which holds a JSON object.

  Raises:
    ValueError: it does not exist, cannot be read or holds something else.
  """
  if not path.exists():
    raise ValueError(
        f'{path} does not exist: {path.parent} is not the folder of a run, or'
        ' of one that an older version has trained'
    )
  try:
    found = json.loads(read_bytes(path))
  except (OSError, ValueError, RecursionError) as e:
    raise ValueError(
        f'{path} cannot be read as JSON ({type(e).__name__}: {e}); repair or'
        ' remove it, or choose another folder'
    ) from e
  if not isinstance(found, dict):
    raise ValueError(
        f'{path} holds {str(found)[:40]!r}, which is no JSON object; repair or'
        ' remove it, or choose another folder'
    )
  return found


def check_not_imported(workdir: epath.Path) -> None:
  """Raises a ValueError where a run was imported, and cannot be trained on."""
  if (workdir / IMPORT).exists():
    raise ValueError(
        f'--workdir={workdir} is an import, which is not trained on: it has no'
        ' state of an optimizer. Choose another --workdir, and let that run'
        f" start from it: config.init = {{'workdir': {str(workdir)!r},"
        " 'modules': {'base': 'base'}}"
    )


def check_resumable(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    model: Any = None,
    mutable: Sequence[str] = MUTABLE_ON_RESUME,
) -> None:
  """Checks that a workdir that holds a run holds a run of this config.

  Args:
    config: of the run that is to go on.
    workdir: its folder.
    model: what the data teach now, the content of `model.json`.
    mutable: fields and sections that may differ.

  Raises:
    ValueError: it differs in what decides the numbers of the run.
  """
  path = workdir / 'model.json'
  if model is not None and path.exists() and read_json(path) != model:
    raise ValueError(
        f'{path} says that the data were others when the run began: classes,'
        ' shapes or what preprocessing has learned from them. Use the data it'
        ' was started with, or another --workdir'
    )
  path = workdir / 'config.json'
  if not path.exists():
    return
  old = _flat(read_json(path))
  new = _flat(json.loads(config.to_json()))
  differ = [
      f'config.{k} is {old.get(k, "absent")!r} there and'
      f' {new.get(k, "absent")!r} here'
      for k in sorted(old.keys() | new.keys())
      if not {k, k.split('.')[0]} & {*mutable}
      and old.get(k) != new.get(k)
  ]
  if differ:
    raise ValueError(
        f'workdir {workdir} belongs to another config: {"; ".join(differ)}. Use'
        ' another --workdir, or the config it was started with (only'
        f' {", ".join(mutable)} may differ when a run goes on)'
    )


def write_config(
    config: ml_collections.ConfigDict, workdir: epath.Path
) -> None:
  """Writes the config to the workdir, on the first process."""
  write_json(workdir / 'config.json', json.loads(config.to_json()))


def _flat(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """`{'a': {'b': 1}}` -> `{'a.b': 1}`."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= _flat(value, f'{prefix}{key}.')
    else:
      flat[f'{prefix}{key}'] = value
  return flat
