"""Emulates 8 devices, keeps what is compiled, leaves the slow tests out."""

from importlib import metadata
import os
from pathlib import Path

# All of this must be in the environment before jax is imported.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    '--xla_force_host_platform_device_count=8',
    # Tests compile much and run little: a third of the time without LLVM's
    # optimizations, half of that without the emitters of fusions, three
    # quarters of that with each program whole.
    '--xla_backend_optimization_level=0',
    '--xla_llvm_disable_expensive_passes=true',
    # (XLA ends a process at a flag that it does not know: 0.12 dropped these.)
    *[
        '--xla_cpu_use_fusion_emitters=false',
        '--xla_cpu_parallel_codegen_split_count=1',
        '--xla_llvm_force_inline_before_split=false',
    ] * ([*map(int, metadata.version('jaxlib').split('.')[:2])] < [0, 12]),
])
# With fewer threads than emulated devices, a collective waits forever for the
# devices that found no thread.
os.environ['NPROC'] = '16'
os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
# What one test, one worker or one process that a test starts has compiled, the
# others read, in the next run too. (An entry that was cut off by a kill is read
# as none.) `JAX_COMPILATION_CACHE_DIR=$(mktemp -d)` tests from cold.
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR',
    str(Path(__file__).resolve().parents[1] / '.pytest_cache' / 'jax'),
)
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
os.environ['JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES'] = '-1'

import pytest


def pytest_addoption(parser):
  parser.addoption('--slow', action='store_true', help='run slow tests too')


# What takes longest comes first (and xdist is told to keep this order): no
# worker is left with it at the end. The others follow by their names.
LONG = [
    'test_resume', 'test_processes', 'test_deepmind', 'test_laws',
    'test_compilation_cache', 'test_testbed', 'test_sweep', 'test_evaluations',
    'test_run', 'test_bad_workdir', 'test_config_values', 'test_readme',
    'test_resnet', 'test_config_names', 'test_step', 'test_step_accumulation',
    'test_golden_resnets', 'test_imagenet2012', 'test_examples', 'test_foreign',
    'test_torchvision', 'test_hosts', 'test_active_learning', 'test_networks',
    'test_checkpointer', 'test_with_prior', 'test_model', 'test_loader',
]  # fmt: skip


def pytest_collection_modifyitems(config, items):
  order = {stem: place for place, stem in enumerate(LONG)}
  items.sort(key=lambda item: order.get(item.path.stem, len(LONG)))
  if config.option.slow or 'slow' in config.option.markexpr:
    return
  skip = pytest.mark.skip(reason='slow: runs in make test-all')
  for item in items:
    if 'slow' in item.keywords:
      item.add_marker(skip)
