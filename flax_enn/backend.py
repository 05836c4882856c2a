"""What a program is compiled for, as far as XLA's ways and memory differ."""

import math
import os

import jax


def on_cpu() -> bool:
  """Whether what is traced now is for CPUs, those of a mesh or the default."""
  return _kind() == 'cpu'


def on_tpu() -> bool:
  """Whether it is for TPUs."""
  return _kind().lower().startswith('tpu')


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
