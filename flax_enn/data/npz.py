"""Reads files of numpy arrays: no pickles, no bombs, no pipes."""

from collections.abc import Callable
import math
import pathlib
from typing import Any, TypeVar
import zipfile

from etils import epath
import numpy as np

from flax_enn import storage

T = TypeVar('T')
_LARGE = 2**28  # bytes: what a slip of compression may not exceed


def read_npz(path: epath.PathLike) -> dict[str, np.ndarray]:
  """The arrays of a .npz file by name.

  Raises:
    ValueError: it is none, or its sizes are not what it says.
  """

  def read(file: Any) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(file):
      raise ValueError('it is not a .npz file, which np.savez writes')
    _check_sizes(file)
    with np.load(file) as archive:
      return {key: archive[key] for key in archive}

  arrays = _read(path, '.npz', read)
  if strange := [k for k, v in arrays.items() if not hasattr(v, 'dtype')]:
    raise ValueError(f'{strange} are not arrays; write it with np.savez')
  return arrays


def read_npy(path: epath.PathLike) -> np.ndarray:
  """The array of a .npy file.

  Raises:
    ValueError: it is none, or its size is not what it says.
  """

  def read(file: Any) -> np.ndarray:
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    _check_header(file, size, 'it')
    file.seek(0)
    return np.load(file, allow_pickle=False)

  return _read(path, '.npy', read)


def _read(path: epath.PathLike, suffix: str, read: Callable[[Any], T]) -> T:
  path = epath.Path(path).expanduser()
  # A local one may be a pipe, which never ends.
  local = not storage.in_bucket(path)
  if not (pathlib.Path(path).is_file() if local else path.is_file()):
    raise ValueError(f'no such file; expected a {suffix} file')
  try:
    with path.open('rb') as file:
      return read(file)
  except Exception as e:  # zipfile, zlib, tokenize … each have their own
    reason = str(e).partition('\n')[0][:200]
    raise ValueError(
        f'which cannot be read ({type(e).__name__}: {reason})'
    ) from e


def _check_sizes(file: Any) -> None:
  """Checks that what a zip file holds is as large as its arrays say.

  A header of a few bytes can ask for any memory, and a small file unpack to
  more than there is.
  """
  with zipfile.ZipFile(file) as archive:
    for info in archive.infolist():
      if not info.filename.endswith('.npy'):
        continue
      if info.file_size > _LARGE and info.file_size > 100 * info.compress_size:
        raise ValueError(
            f'{info.filename} would grow {info.compress_size:,} bytes to'
            f' {info.file_size:,}'
        )
      with archive.open(info) as member:
        _check_header(member, info.file_size, info.filename)
  file.seek(0)


def _check_header(file: Any, size: int, name: str) -> None:
  """Checks that an array of `size` bytes is what its header says."""
  version = np.lib.format.read_magic(file)
  read = (
      np.lib.format.read_array_header_1_0
      if version == (1, 0)
      else np.lib.format.read_array_header_2_0
  )
  shape, _, dtype = read(file)
  found, expected = size - file.tell(), math.prod(shape)
  if not dtype.hasobject and found != expected * dtype.itemsize:
    raise ValueError(
        f'{name} says that it is {dtype}{list(shape)}, but has {found:,} bytes'
    )
