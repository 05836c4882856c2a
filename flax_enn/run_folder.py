"""The files in the folder of a run: atomic writes, and reads that explain."""

from collections.abc import Generator, Mapping, Sequence
import contextlib
import json
import os
from typing import Any

from etils import epath
import jax
import ml_collections

from flax_enn.storage import read_bytes

# What may differ when a run goes on: how it is laid out, evaluated, kept; how
# its data are read, and from where.
MUTABLE_ON_RESUME = (
    'mesh', 'sharding', 'eval', 'evals', 'checkpoint', 'num_steps',
    'dataset.workers', 'dataset.read_ahead', 'dataset.skip_bad',
    'dataset.data_dir', 'dataset.path',
)  # fmt: skip

IMPORT = 'import.json'  # where the weights of an imported run are from


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
      if not any(f'{k}.'.startswith(f'{m}.') for m in mutable)
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
