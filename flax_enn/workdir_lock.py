"""A run owns its workdir: the lock file that a second run meets."""

from collections.abc import Mapping
import contextlib
import os
import socket
import threading
import time
from typing import Any, Self
import uuid

from absl import logging
from etils import epath
import jax
from jax.experimental import multihost_utils
import numpy as np

from flax_enn import lock_file, storage

NAME = 'lock.json'

_MACHINE = ('boot_id', 'pid_namespace')  # between whose processes pids differ


class WorkdirInUseError(RuntimeError):
  """Another run holds the workdir."""


class WorkdirLock:
  """Held by a run from before it writes anything until it ends.

  The file says who holds it (host, boot, process with its start time, a random
  token) and has a count that goes up all the time. An owner on this machine is
  looked up among its processes: a live one ends the second run at once, one
  that is gone is followed at once. An owner elsewhere is alive if the count
  goes up while the second run waits; else it is followed, so that a restart
  after a preemption is not lost. On many hosts the first process holds it.

  As a context manager it is given back at the end.
  """

  def __init__(
      self, workdir: epath.PathLike, *, wait: float = 60.0, every: float = 5.0
  ):
    """Takes the lock.

    Args:
      workdir: folder of the run, local or in a bucket; made if need be.
      wait: seconds in which an owner elsewhere must give a sign of life.
      every: seconds between two of our own.

    Raises:
      WorkdirInUseError: another run holds it, on every process.
      ValueError: the folder cannot be written.
      OSError: nor can any other on a disk that is full; or a bucket cannot be
        reached.
    """
    self._path = epath.Path(workdir) / NAME
    self._wait = wait
    self._every = every
    self._content: dict[str, Any] = {}
    self._lost = ''
    self._made = False
    self._done = threading.Event()
    problem = None
    if jax.process_index() == 0:
      try:
        self._acquire()
      except (WorkdirInUseError, ValueError, OSError) as e:
        problem = e
    if problem:
      self._fail_everywhere(True)
      raise problem
    if self._fail_everywhere(False):
      raise WorkdirInUseError(
          f'process 0 could not take {self._path}; it says why'
      )
    if jax.process_index() == 0:
      self._thread = threading.Thread(target=self._beat, daemon=True)
      self._thread.start()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *unused: Any) -> None:
    self.release()

  def check(self) -> None:
    """To be called before something is written.

    Raises:
      WorkdirInUseError: another run has taken the lock, because this process
        gave no sign of life for too long.
    """
    if self._lost:
      raise WorkdirInUseError(self._lost)

  def release(self) -> None:
    """Gives the lock back."""
    if jax.process_index() or self._done.is_set():
      return
    self._done.set()
    self._thread.join()
    with contextlib.suppress(OSError, ValueError):
      self._file.remove(self._content['token'])
      if self._made:
        self._path.parent.rmdir()  # raises where something was written

  def _fail_everywhere(self, failed: bool) -> bool:
    """Tells all processes whether the first has failed."""
    if jax.process_count() == 1:
      return failed
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(failed)))

  def _acquire(self) -> None:
    self._content = {**_this_process(), 'token': uuid.uuid4().hex, 'beat': 0}
    try:
      if not storage.in_bucket(self._path):
        self._made = not self._path.parent.exists()
        self._path.parent.mkdir(parents=True, exist_ok=True)
      self._file = lock_file.open_file(self._path, self._content['token'])
      while not self._file.create(self._content):
        self._remove_dead(self._read())
    except OSError as e:
      if self._made:
        with contextlib.suppress(OSError):
          self._path.parent.rmdir()
      what = (
          f'workdir is {self._path.parent}, which cannot be written'
          f' ({type(e).__name__}: {e});'
      )
      if e.__cause__ and storage.is_transient(e.__cause__):
        raise OSError(
            f'{self._path.parent} cannot be reached ({e}); nothing was changed'
        ) from e
      if e.errno in storage.FULL:
        raise OSError(f'{what} make room, or choose another --workdir') from e
      raise ValueError(f'{what} choose another --workdir') from e

  def _remove_dead(self, owner: Mapping[str, Any] | None) -> None:
    """Removes the file of an owner that is gone.

    Raises:
      WorkdirInUseError: it is alive.
    """
    if owner is None:
      return  # given back in between
    here = _this_process()
    alive, sure = True, False
    if owner and all(owner.get(k) == here[k] and here[k] for k in _MACHINE):
      sure = True
      alive = _started(owner.get('pid')) == owner.get('started')
    else:
      logging.info(
          '%s holds the workdir; waiting up to %d s for a sign of life',
          _describe(owner), self._wait,
      )
      alive = self._changes(owner)
    if alive:
      raise WorkdirInUseError(
          f'{self._path.parent} is in use by {_describe(owner)}. Wait for that'
          ' run or stop it, or choose another --workdir'
      )
    logging.warning(
        '%s held %s and %s; this run goes on in its place',
        _describe(owner), self._path.parent,
        'is gone' if sure else f'has given no sign of life for {self._wait} s',
    )
    self._file.remove(owner.get('token'))

  def _read(self) -> Mapping[str, Any] | None:
    """The content of the file; {} where it cannot be read."""
    try:
      return self._file.read()
    except OSError:
      return {}

  def _changes(self, owner: Mapping[str, Any] | None) -> bool:
    """Whether the file changes, or goes, within the time it is given."""
    end = time.monotonic() + self._wait
    while time.monotonic() < end:
      time.sleep(min(1.0, self._wait / 10))
      found = self._read()
      if found is None:
        return False
      if found != owner:
        return True
    return False

  def _beat(self) -> None:
    """Counts up in the file, until the end or until it is another's."""
    while not self._done.wait(self._every):
      try:
        found = self._file.read()
        if (found or {}).get('token') != self._content['token']:
          self._lost = (
              f'{self._path.parent} was taken over by {_describe(found)}, since'
              ' this run gave no sign of life for too long. It stops, and'
              ' writes nothing more'
          )
          return
        self._content['beat'] += 1
        self._file.replace(self._content)
      except OSError as e:  # may pass
        logging.warning('%s cannot be renewed: %s', self._path, e)


def _this_process() -> dict[str, Any]:
  pid = os.getpid()
  return {
      'host': socket.gethostname(),
      'boot_id': _text('/proc/sys/kernel/random/boot_id'),
      'pid_namespace': _link('/proc/self/ns/pid'),
      'pid': pid,
      'started': _started(pid),
      'since': time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime()),
  }


def _started(pid: Any) -> str:
  """When a process started, in ticks since the boot; '' where there is none."""
  # The name before the last bracket may have any character.
  _, _, fields = _text(f'/proc/{pid}/stat').rpartition(')')
  values = fields.split()
  zombie = bool(values) and values[0] in 'ZX'
  return '' if zombie or len(values) < 20 else values[19]


def _text(path: str) -> str:
  try:
    with open(path) as file:
      return file.read().strip()
  except OSError:
    return ''


def _link(path: str) -> str:
  try:
    return os.readlink(path)
  except OSError:
    return ''


def _describe(owner: Mapping[str, Any] | None) -> str:
  if not owner:
    return 'a run that cannot be read'
  host, pid, since = (owner.get(k) for k in ('host', 'pid', 'since'))
  return f'process {pid} on {host}, since {since}'
