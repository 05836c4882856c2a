"""Trains a network, judges it, and writes what it found.

  python train.py --config=configs/digits_base.py --workdir=runs/digits_base

Any field of the config can be set: --config.batch_size=128. The same command
goes on where a run was stopped; a finished run is judged again.
"""

import os

# Several emulated CPU devices starve each other of threads without it.
os.environ.setdefault('NPROC', '16')

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    'config',
    None,
    'Config file, with a variant after a colon: configs/NAME.py[:VARIANT].',
)
_WORKDIR = flags.DEFINE_string(
    'workdir',
    None,
    'Folder of the run: gets checkpoints/, TensorBoard files, results.json and'
    ' report.png. A workdir belongs to one config.',
    required=True,
)
_PROFILE_AT = flags.DEFINE_integer(
    'profile_at', None, 'Step at which to profile five steps, for TensorBoard.'
)


def _is_news(record):
  """Keeps the many lines that JAX and Orbax log about themselves out."""
  chatty = any(f'/{name}/' in record.pathname for name in ('jax', 'orbax'))
  return record.levelno > logging.converter.absl_to_standard(logging.INFO) or (
      not chatty
  )


def main(argv):
  """Runs what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  # Imported here so that --help and a wrong flag answer at once.
  from flax_enn.training import train_and_evaluate

  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_is_news)
  train_and_evaluate(
      _CONFIG.value, _WORKDIR.value, profile_at=_PROFILE_AT.value
  )


if __name__ == '__main__':
  flags.mark_flag_as_required('config')
  app.run(main)
