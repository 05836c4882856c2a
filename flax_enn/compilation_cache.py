"""Compiled programs on disk, so that no run compiles what another one did."""

import hashlib
import os
from pathlib import Path
import platform
import re

from absl import logging
from etils import epath
import filelock
import jax

from flax_enn import storage

MAX_BYTES = 2 * 2**30
_SECONDS_TO_LOCK = 10  # as JAX waits for it


def default_folder() -> epath.Path:
  """`flax_enn` in the user's cache."""
  cache = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return epath.Path(cache).expanduser() / 'flax_enn'


def enable(folder: epath.PathLike | None = None) -> epath.Path | None:
  """Makes JAX keep what it compiles, and look there before it compiles.

  To be called before JAX compiles anything. A folder holds up to `MAX_BYTES`,
  then loses what was not used for longest; a bucket grows without bounds, since
  JAX's lock is a file. Of many processes the first alone writes. A folder that
  cannot be used costs a warning and no run.

  Args:
    folder: a folder or a bucket, whose writers are trusted. By default what
      JAX_COMPILATION_CACHE_DIR has set up, else `default_folder()`. Empty for
      no cache.

  Returns:
    Where the programs for this CPU are kept, or None.
  """
  if folder == '':
    jax.config.update('jax_enable_compilation_cache', False)
  options = jax.config.values
  if not options['jax_enable_compilation_cache']:
    return None
  if folder is None and (given := options['jax_compilation_cache_dir']):
    return epath.Path(given)
  try:
    path = epath.Path(folder or default_folder()).expanduser() / _cpu()
    path.mkdir(parents=True, exist_ok=True)
    is_bucket = storage.in_bucket(path)
    if is_bucket:
      (path / 'writable').write_text('')
    else:
      _remove_torn(path)
  except Exception as e:  # each kind of storage has its own
    jax.config.update('jax_enable_compilation_cache', False)
    logging.warning(
        'Everything is compiled anew: no compilation cache in %s (%s: %s)',
        *(folder or 'the cache of the user', type(e).__name__, e),
    )
    return None
  for option, value in {
      'jax_compilation_cache_dir': str(path),
      'jax_compilation_cache_max_size': -1 if is_bucket else MAX_BYTES,
      # Of XLA, for GPUs; it knows no buckets.
      'jax_persistent_cache_enable_xla_caches': (
          '' if is_bucket else 'xla_gpu_per_fusion_autotune_cache_dir'
      ),
      # Small programs are many, and together take longer than the large ones.
      'jax_persistent_cache_min_compile_time_secs': 0.0,
      'jax_persistent_cache_min_entry_size_bytes': -1,
  }.items():
    jax.config.update(option, value)
  return path


def _remove_torn(path: epath.Path) -> None:
  """Removes entries whose writer was killed.

  JAX would neither read nor replace them, and fail whenever it makes room.
  """
  with filelock.FileLock(path / '.lockfile', timeout=_SECONDS_TO_LOCK):
    for entry in path.glob('*-cache'):
      used = entry.with_name(f'{entry.name.removesuffix("-cache")}-atime')
      if not used.exists():  # it is written last
        entry.unlink()


def _cpu() -> str:
  """Name of this kind of CPU; what is compiled for one may fail on another."""
  features = platform.processor()
  info = Path('/proc/cpuinfo')
  if info.exists():
    found = re.search(r'^(flags|Features)\s*:(.*)$', info.read_text(), re.M)
    features = ' '.join(sorted(found[2].split())) if found else features
  machine = platform.machine()
  digest = hashlib.sha256(f'{machine} {features}'.encode()).hexdigest()
  return f'{machine or "cpu"}-{digest[:12]}'
