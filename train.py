"""Trains a network, evaluates it, and writes the results.

  python train.py --config=configs/digits_base.py --workdir=runs/digits_base

Any field of the config can be set: --config.batch_size=128. The same command
goes on where a run was stopped; a finished run is evaluated again. SIGTERM and
Ctrl-C save and stop (Ctrl-C twice ends at once). A workdir has one run at a
time.

Exit codes: 0 done, --preemption_exit_code stopped before the end, 2 a mistake
in config, flags or data (or all checkpoints damaged), which no second try
mends, 1 all else.
"""

import functools
import operator
import os
import re
import signal
import sys
import threading

# Several emulated CPU devices starve each other of threads without it.
os.environ.setdefault('NPROC', '16')
# TensorFlow only decodes, and writes to buckets: silence its logs.
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

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
)
_DRY_RUN = flags.DEFINE_string(
    'dry_run',
    None,
    'Compiles the run for devices that need not be there, such as v5e:16x16,'
    ' v5p:4x4x4, v5e:16x16*2 (two slices) or cpu:8, says what memory, work and'
    ' communication it takes, and ends. Needs no data; TPUs need'
    " pip install 'flax_enn[tpu]'.",
)
_COMPILATION_CACHE = flags.DEFINE_string(
    'compilation_cache',
    None,
    'Folder or bucket of compiled programs, which later runs need not compile'
    " again: by default flax_enn/ in the user's cache (or where JAX's own"
    ' JAX_COMPILATION_CACHE_DIR says), empty for none.',
)
_COORDINATOR_ADDRESS = flags.DEFINE_string(
    'coordinator_address',
    None,
    'HOST:PORT of process 0, where processes are started by hand (see'
    ' launch/README.md). TPU VMs, GKE, Slurm and Open MPI need no flags.',
)
_NUM_PROCESSES = flags.DEFINE_integer(
    'num_processes', None, 'How many processes are started by hand.'
)
_PROCESS_ID = flags.DEFINE_integer(
    'process_id', None, 'Number of this one of them, from 0.'
)
_START_TIMEOUT = flags.DEFINE_integer(
    'start_timeout',
    300,
    'Seconds to wait at the start: for all processes to come, for the first'
    ' batch of each, and for the slowest to restore.',
    lower_bound=1,
)
_PEER_TIMEOUT = flags.DEFINE_integer(
    'peer_timeout',
    100,
    'Seconds after which a process that no longer answers, or waits for a batch'
    ' of data, ends the run with an error.',
    lower_bound=1,
)
_PREEMPTION_EXIT_CODE = flags.DEFINE_integer(
    'preemption_exit_code',
    0,
    'Exit code of a run that SIGTERM stopped before its end, all of it saved:'
    ' not 0 where a scheduler is to start it again.',
    lower_bound=0,
    upper_bound=255,
)
_PROFILE_AT = flags.DEFINE_integer(
    'profile_at', None, 'Step at which to profile five steps, for TensorBoard.'
)


# SIGTERM and Ctrl-C ask to save and stop, from the first import on.
_asked_to_stop = threading.Event()


def _ask_to_stop(number, frame):
  """Asks to save and stop; a second Ctrl-C ends the program at once."""
  del frame
  _asked_to_stop.set()
  if number == signal.SIGINT:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.warning('Saving and stopping; Ctrl-C again ends at once')


def main(argv):
  """Runs what the flags say."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  # Imported here so that --help and a wrong flag answer at once.
  from flax_enn import command_line, distributed

  command_line.log_quietly()
  with distributed.exit_on_error():
    run()


def run():
  """Trains, or compiles only; errors that a user can mend are one sentence."""
  from flax_enn import command_line, distributed

  try:
    if _DRY_RUN.value:
      from flax_enn.dry_run import dry_run

      print(dry_run(_CONFIG.value, _DRY_RUN.value))
      return
    import jax

    from flax_enn import backend, compilation_cache
    from flax_enn.training import train_and_evaluate

    compilation_cache.enable(_COMPILATION_CACHE.value)
    distributed.initialize(
        _COORDINATOR_ADDRESS.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        start_timeout=_START_TIMEOUT.value,
        peer_timeout=_PEER_TIMEOUT.value,
    )
    if jax.process_count() > 1 and _asked_to_stop.is_set():
      os.kill(os.getpid(), signal.SIGTERM)  # now JAX's own service listens
    if jax.default_backend() == 'cpu':
      backend.keep_freed_memory()
    results = train_and_evaluate(
        _CONFIG.value,
        _WORKDIR.value or '',
        profile_at=_PROFILE_AT.value,
        stop=distributed.Preemption(_asked_to_stop),
    )
  except Exception as e:
    found = command_line.sentence(e)
    if found is None:
      raise
    raise distributed.Failure(*found) from None
  if results is None:
    sys.exit(_PREEMPTION_EXIT_CODE.value)


def parse_flags(argv):
  """Parses the flags; a field that the config does not have is named.

  `--config.FIELD=None` sets any field, a section too, to None.
  """
  none = [re.fullmatch(r'--?config\.([\w.]+)=None', arg) for arg in argv]
  # config_flags looks there, too.
  sys.argv = [arg for arg, match in zip(argv, none) if not match]
  try:
    rest = app.parse_flags_with_usage(sys.argv)
    config = _CONFIG.value
    hasattr(config, 'items')  # raises where the file could not be loaded
    for match in filter(None, none):
      _set_to_none(config, match[1])
  except OSError as e:
    print(f'--config cannot be read: {e}', file=sys.stderr)
    sys.exit(2)
  except (AttributeError, KeyError) as e:
    print(
        f'The config has no field {e.args[0]}\nThe command line can set what'
        ' the config file or default_config() names.',
        file=sys.stderr,
    )
    sys.exit(2)
  except SystemExit as e:  # absl has said why, and ends --help so, too
    helps = any(arg.lstrip('-').startswith('help') for arg in argv)
    sys.exit(0 if helps else 2 if e.code else e.code)
  return rest


def _set_to_none(config, path):
  """Sets a field, whatever its type; KeyError where there is none."""
  *sections, field = path.split('.')
  try:
    section = functools.reduce(operator.getitem, sections, config)
    with section.ignore_type():
      section[field] = None
  except (TypeError, AttributeError) as e:  # a part of it is no section
    raise KeyError(path) from e


if __name__ == '__main__':
  for asks in (signal.SIGTERM, signal.SIGINT):
    signal.signal(asks, _ask_to_stop)
  flags.mark_flag_as_required('config')
  flags.register_multi_flags_validator(
      ['workdir', 'dry_run'],
      lambda given: given['workdir'] or given['dry_run'],
      'Flag --workdir must have a value other than None (or --dry_run).',
  )
  app.run(main, flags_parser=parse_flags)
