"""What the command lines have in common: flags, errors and exit codes.

0 is done, 2 a mistake in config, flags or data (or damage), which no second try
mends, 1 all else.
"""

from collections.abc import Callable, Sequence
import os
import sys
from typing import Any, NoReturn

from absl import app, flags, logging

from flax_enn import compilation_cache

# Errors that are printed as one sentence, and what the program ends with.
_EXIT_CODES = {
    'ValueError': 2,
    'ModuleNotFoundError': 2,
    'DamagedCheckpointError': 2,
    'FloatingPointError': 2,
    'WorkdirInUseError': 1,
    'OSError': 1,  # a lost connection, a disk that is full
}
_LIBRARIES = ('jax', 'orbax', 'tensorflow_datasets')


def sentence(error: Exception) -> tuple[str, int] | None:
  """An error as its sentence and exit code; None where it needs a traceback."""
  names = (cls.__name__ for cls in type(error).__mro__)
  code = next((_EXIT_CODES[n] for n in names if n in _EXIT_CODES), None)
  if code is None or logging.get_verbosity() > logging.INFO:
    return None
  return f'{type(error).__name__}: {error}\n(--verbosity=1 shows where.)', code


def parse(argv: Sequence[str]) -> list[str]:
  """Parses flags; a wrong one ends the program with 2."""
  try:
    rest = app.parse_flags_with_usage(list(argv))
    # A file that could not be loaded raises when it is asked for something.
    hasattr(getattr(flags.FLAGS, 'config', None), 'items')
    return rest
  except OSError as e:  # from --config
    print(f'--config cannot be read: {e}', file=sys.stderr)
    sys.exit(2)
  except (AttributeError, KeyError) as e:  # from --config.FIELD=…
    said = e.args[0].args[0] if isinstance(e, AttributeError) else e.args[0]
    print(f'The config has no field {said}', file=sys.stderr)
    sys.exit(2)
  except SystemExit as e:  # absl has said why, and ends --help so, too
    helps = any(arg.lstrip('-').startswith('help') for arg in argv)
    sys.exit(0 if helps else 2 if e.code else e.code)


def log_quietly() -> None:
  """Keeps the many lines that JAX, Orbax and TFDS log about themselves out."""

  def keep(record: Any) -> bool:
    from_library = any(
        f'-packages/{name}/' in record.pathname for name in _LIBRARIES
    )
    info = logging.converter.absl_to_standard(logging.INFO)
    return record.levelno > info or not from_library

  logging.set_verbosity(max(logging.get_verbosity(), logging.INFO))
  logging.get_absl_handler().addFilter(keep)


def main(run: Callable[[list[str]], None], *required: str) -> NoReturn:
  """Runs a command line: `run` gets the arguments that are no flags.

  Args:
    run: raises what a user can mend as an error of one sentence.
    *required: names of flags that must be given.
  """
  # Data sets may import TensorFlow: silence its logs.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  for name in required:
    flags.mark_flag_as_required(name)

  def call(argv: Sequence[str]) -> None:
    log_quietly()
    compilation_cache.enable(None)
    try:
      run(list(argv[1:]))
    except Exception as e:
      found = sentence(e)
      if found is None:
        raise
      print(found[0], file=sys.stderr)
      sys.exit(found[1])

  app.run(call, flags_parser=parse)
  raise AssertionError('app.run returns never')
