"""Waits of a process for others, and of others for it: each comes to an end.

A process whose heart beats is not dead to JAX, however long it waits for data
or the others for it. Here such a wait has a time-out, a sentence that says who
waited for what, and a non-zero exit code. `distributed.initialize` sets the
time-outs: without it, and in a run of one process, no wait is limited.
"""

from collections.abc import Generator, Iterable, Iterator
import contextlib
import os
import re
import socket
import sys
import threading
from typing import TypeVar

import jax

T = TypeVar('T')

# 'start', 'peer' -> seconds; empty where nobody waits.
timeouts: dict[str, int] = {}


@contextlib.contextmanager
def ends_after(seconds: float, message: str) -> Generator[None]:
  """Ends this process with a message and code 1 if its body takes too long.

  It may hang where no exception reaches it, in JAX or in a reader of data.
  """

  def end():
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(1)

  timer = threading.Timer(seconds, end)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


def watched(batches: Iterable[T]) -> Iterator[T]:
  """The same batches, each of which must come in time.

  The first may take the time-out of the start, since it starts the readers;
  each after it that of a process that no longer answers.
  """
  iterator, flag = iter(batches), 'start'
  while True:
    seconds = timeouts.get(flag)
    wait: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if seconds is not None:
      wait = ends_after(
          seconds,
          f'TimeoutError: process {jax.process_index()} of'
          f' {jax.process_count()}, host {socket.gethostname()}, waited'
          f' {seconds} s for data, and the others for it; look at what it reads'
          f' from, or raise --{flag}_timeout',
      )
    with wait:
      try:
        batch = next(iterator)
      except StopIteration:
        return
    yield batch
    flag = 'peer'


def meet(where: str) -> None:
  """Waits until all processes are there.

  Args:
    where: what all have done, a name of its own.

  Raises:
    ConnectionError: some have not come within the time-out of the start.
  """
  if not timeouts:
    return
  # Imported here because it is slow, and there where this is called.
  from orbax.checkpoint import multihost

  seconds = timeouts['start']
  try:
    multihost.get_barrier_sync_fn()(key=where, timeout_ms=1000 * seconds)
  except RuntimeError as e:
    late = re.findall(r'^(?:\S*task:)?(\d+)\S*$', str(e), re.MULTILINE)
    who = f'processes {late} have not' if late else 'not all processes have'
    raise ConnectionError(
        f'{who} {where} within {seconds} s after process {jax.process_index()}:'
        f' {str(e).splitlines()[0]} See what they say, or raise --start_timeout'
    ) from e
