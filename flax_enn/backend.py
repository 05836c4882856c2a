"""What a program is compiled for, as far as XLA's ways differ."""

import jax


def on_cpu() -> bool:
  """Whether what is traced now is for CPUs, those of a mesh or the default."""
  return _kind() == 'cpu'


def on_tpu() -> bool:
  """Whether it is for TPUs."""
  return _kind().lower().startswith('tpu')


def _kind() -> str:
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else jax.default_backend()
