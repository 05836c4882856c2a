"""Many processes: how they find each other, and stop together."""

from collections.abc import Generator, Mapping
import contextlib
import glob
import importlib.util
import os
import sys
import threading
import time
import traceback

from absl import logging
import jax
from jax.experimental import multihost_utils

from flax_enn import coordinator, waiting

# Whether this process has joined others.
_initialized = threading.Event()

# What says who the others are where no flags do.
_CLUSTER = (
    'JAX_COORDINATOR_ADDRESS', 'JAX_COORDINATOR_PORT',
    'MEGASCALE_COORDINATOR_ADDRESS', 'MEGASCALE_NUM_SLICES',
    'MEGASCALE_SLICE_ID', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK',
    'SLURM_JOB_ID', 'SLURM_NTASKS', 'SLURM_PROCID', 'SLURM_STEP_NODELIST',
    'TPU_WORKER_HOSTNAMES', 'TPU_WORKER_ID',
)  # fmt: skip


def initialize(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    start_timeout: int = 300,
    peer_timeout: int = 100,
) -> None:
  """Joins the other processes of a run, if there are any.

  Without arguments JAX finds them where a cluster says that there are some: on
  a TPU VM (GKE's too), in Slurm and in Open MPI. Elsewhere this does nothing.
  To be called before JAX is used.

  Args:
    coordinator_address: HOST:PORT of the first process, which listens there and
      on no other interface; JAX_COORDINATOR_BIND_ADDRESS says another one.
    num_processes: how many there are.
    process_id: number of this one, from 0.
    start_timeout: seconds that others are waited for at the start; see also
      `waiting`.
    peer_timeout: seconds after which one that no longer answers ends all.

  Raises:
    ValueError: some of the arguments are there and some are not, or a number
      is out of range.
    ConnectionError: the others are not there in time, or this process cannot
      listen where it is told to.
  """
  told, listens_at = 'deactivate', None
  end = time.monotonic() + start_timeout
  where = f'at --coordinator_address={coordinator_address}?'
  if coordinator_address is None or num_processes is None or process_id is None:
    given = (coordinator_address, num_processes, process_id)
    if any(value is not None for value in given):
      raise ValueError(
          'a process that is started by hand needs all of'
          ' --coordinator_address, --num_processes and --process_id; they are'
          f' {", ".join(map(repr, given))}'
      )
    if not cluster_detected(os.environ):
      return
    told = None  # by the cluster
    says = [f'{k}={os.environ[k]}' for k in _CLUSTER if k in os.environ]
    where = (
        f'where the environment says, {", ".join(says)}? Unset what another'
        ' job, or a slice that was replaced, has left there.'
    )
  elif not 0 <= process_id < num_processes:
    raise ValueError(
        f'--process_id is {process_id}; the {num_processes} processes of'
        f' --num_processes are 0 to {num_processes - 1}'
    )
  elif process_id:
    coordinator.wait_for(coordinator_address, start_timeout)
  else:
    listens_at = os.environ.get('JAX_COORDINATOR_BIND_ADDRESS')
    listens_at = listens_at or coordinator_address
    coordinator.check_can_listen(listens_at)
  logging.info('Waiting up to %d s for all processes', start_timeout)
  missing = (
      f'are all processes started, and do they find process 0 {where} Or raise'
      ' --start_timeout'
  )
  message = (
      f'ConnectionError: not all processes came within {start_timeout} s;'
      f' {missing}'
  )
  with waiting.ends_after(max(1, end - time.monotonic()), message):
    try:
      jax.distributed.initialize(
          coordinator_address,
          num_processes,
          process_id,
          cluster_detection_method=told,
          # Beyond ours: JAX would end the process with a trace of its inside.
          initialization_timeout=start_timeout + 60,
          heartbeat_timeout_seconds=peer_timeout,
          coordinator_bind_address=listens_at,
      )
    except (RuntimeError, ValueError) as e:
      raise ConnectionError(
          f'cannot join the other processes ({e}); {missing}'
      ) from e
  _initialized.set()
  if jax.process_count() > 1:
    waiting.timeouts.update(start=start_timeout, peer=peer_timeout)
  logging.info(
      'Process %d of %d, %d of %d devices',
      *(jax.process_index(), jax.process_count()),
      *(jax.local_device_count(), jax.device_count()),
  )


def cluster_detected(env: Mapping[str, str]) -> bool:
  """Whether a cluster started this process beside others that JAX can find."""
  if int(env.get('OMPI_COMM_WORLD_SIZE', 1)) > 1:
    return True
  # SLURM_PROCID is there in tasks that srun started, and not in the script.
  if 'SLURM_PROCID' in env and int(env.get('SLURM_NTASKS', 1)) > 1:
    return True
  on_tpu = bool(glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*'))
  has_libtpu = importlib.util.find_spec('libtpu') is not None
  return on_tpu and has_libtpu and env.get('JAX_PLATFORMS', 'tpu') != 'cpu'


class Failure(SystemExit):
  """Ends this process with a sentence and an exit code."""

  def __init__(self, message: str, code: int):
    """The sentence goes to stderr."""
    super().__init__(code)
    self.message = message
    self.exit_code = code


@contextlib.contextmanager
def exit_on_error() -> Generator[None]:
  """Ends this process at once when an error leaves it, with a code of its own.

  The others lose their connection to it and end too. A normal exit would wait
  for them at JAX's barrier, and they in the next step for this one.
  """
  try:
    yield
  except BaseException as e:
    # Another number is not an error: all processes end with it.
    if isinstance(e, SystemExit) and not isinstance(e, Failure):
      raise
    sys.stdout.flush()
    if isinstance(e, Failure):
      print(e.message, file=sys.stderr, flush=True)
    elif _initialized.is_set():
      traceback.print_exc()
    if not _initialized.is_set():
      raise
    sys.stderr.flush()
    os._exit(e.exit_code if isinstance(e, Failure) else 1)


class Preemption:
  """Whether the run is to stop, with the same answer on every process.

  A scheduler asks for it with SIGTERM, which may reach one process only. Every
  process must ask equally often and in the same places.
  """

  def __init__(self, requested: threading.Event | None = None):
    """Asked for by setting `requested`, or by `request`."""
    self._requested = requested or threading.Event()
    self._count = 0

  def request(self) -> None:
    """Asks this process to stop: what a signal handler calls."""
    self._requested.set()

  def __call__(self) -> bool:
    """Whether to save and stop now."""
    self._count += 1
    if jax.process_count() > 1:
      # JAX's own service hears SIGTERM. A sync point is the first count that no
      # process is beyond yet.
      return multihost_utils.reached_preemption_sync_point(self._count)
    return self._requested.is_set()
