"""What all processes of a run must have alike, and what all get to know."""

from collections.abc import Mapping
import os
import time
from typing import Any
import zlib

from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np


def check_shared_filesystem(folder: epath.Path) -> None:
  """Checks that all processes see the same folder.

  Raises:
    ValueError: some do not.
  """
  if jax.process_count() == 1:
    return
  random = np.frombuffer(os.urandom(4), np.uint32)[0]
  token = str(multihost_utils.broadcast_one_to_all(random))
  path = folder / 'same-folder'
  if jax.process_index() == 0:
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(token)
  multihost_utils.sync_global_devices('token written')
  seen = any(_holds(path, token) for _ in range(10))  # network drives lag
  others = np.flatnonzero(~multihost_utils.process_allgather(np.array(seen)))
  if jax.process_index() == 0:
    path.unlink()
  if len(others):
    raise ValueError(
        f'--workdir={folder} is not the same folder on all hosts: processes'
        f' {others.tolist()} do not see what process 0 writes there. Use a'
        ' folder that they share, or a bucket'
    )


def _holds(path: epath.Path, text: str) -> bool:
  if path.exists() and path.read_text() == text:
    return True
  time.sleep(0.5)
  return False


def assert_equal_across_processes(about: Mapping[str, Any]) -> None:
  """Checks that all processes run the same.

  Args:
    about: name -> what must be equal everywhere; compared by its text.

  Raises:
    ValueError: what differs, and in which processes.
  """
  if jax.process_count() == 1:
    return
  own = np.array([zlib.crc32(repr(v).encode()) for v in about.values()])
  everyone = multihost_utils.process_allgather(own.astype(np.uint32))
  for column, (name, value) in enumerate(about.items()):
    others = np.flatnonzero(everyone[:, column] != everyone[0, column])
    if len(others):
      raise ValueError(
          f'{name} differs between processes: {others.tolist()} do not agree'
          f' with process 0; process {jax.process_index()} has {value!r}. Start'
          ' all of them with the same command and the same files'
      )


def on_any_process(here: bool) -> bool:
  """Whether it is so on this or any other process, for all to act alike."""
  if jax.process_count() == 1:
    return here
  return bool(multihost_utils.process_allgather(np.asarray(here)).any())
