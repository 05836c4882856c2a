"""Emulates 8 devices on the CPU, and leaves out the slow tests by default."""

import os

# All of this must be in the environment before jax is imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Tests compile much and run little: a third of the time without LLVM's
    # optimizations.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
])
# With fewer threads than emulated devices, a collective waits forever for the
# devices that found no thread.
os.environ['NPROC'] = '16'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'

import pytest


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='run slow tests too')


def pytest_collection_modifyitems(config, items):
  if config.option.slow or 'slow' in config.option.markexpr:
    return
  skip = pytest.mark.skip(reason='slow: runs in make test-all')
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(skip)
