"""What a program is compiled for, as far as XLA's ways and memory differ."""

import ctypes
import math
import os

import jax

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def on_cpu() -> bool:
  """Whether what is traced now is for CPUs, those of a mesh or the default."""
  return _kind() == 'cpu'


def on_tpu() -> bool:
  """Whether it is for TPUs."""
  return _kind().lower().startswith('tpu')


def keep_freed_memory() -> None:
  """Lets the C library keep the memory that XLA for CPUs frees after a call.

  glibc gives large blocks back to the system, so that the temporaries of every
  step are new pages, which cost more than what is computed in them: a step of
  ten MLPs takes half the time without (docs/performance.md). With another
  library, or where `MALLOC_…` in the environment says otherwise, nothing is
  done.
  """
  own = any(name.startswith('MALLOC_') for name in os.environ)
  libc = None if own else ctypes.CDLL(None)
  if libc is not None and hasattr(libc, 'gnu_get_libc_version'):
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def device_memory(mesh: jax.sharding.Mesh) -> float:
  """Bytes that each device has; emulated ones share those of the machine."""
  device = mesh.devices.flat[0]
  if device.platform != 'cpu':
    try:
      return (device.memory_stats() or {}).get('bytes_limit', math.inf)
    except Exception:  # a device that is only described, or another host's
      return math.inf
  try:
    total = os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')
  except (AttributeError, ValueError, OSError):
    return math.inf
  return total / len(mesh.local_devices)


def _kind() -> str:
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else jax.default_backend()
