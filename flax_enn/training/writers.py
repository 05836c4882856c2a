"""CLU's metric writers and periodic actions, which import TensorFlow."""

from collections.abc import Generator
import contextlib
import importlib.util
from typing import Any

from etils import epath
import jax

_NEEDED = ('tensorflow', 'tensorboard', 'matplotlib')


@contextlib.contextmanager
def create_writer(workdir: epath.Path) -> Generator[Any]:
  """A CLU writer: log lines on every host, TensorBoard files from the first.

  Raises:
    ModuleNotFoundError: the extra `train` is not installed.
  """
  missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
  if missing:
    raise ModuleNotFoundError(
        'training writes its curves through CLU with TensorFlow and draws its'
        f' report with matplotlib, but {" and ".join(missing)} is not'
        " installed: pip install 'flax_enn[train]'"
    )
  from clu import metric_writers

  writer = metric_writers.create_default_writer(
      workdir, just_logging=jax.process_index() > 0
  )
  with metric_writers.ensure_flushes(writer):
    yield writer


def create_hooks(
    workdir: epath.Path, writer: Any, config: Any, profile_at: int | None
) -> list[Any]:
  """Actions to call after every step: progress with ETA, a profile on demand.

  Args:
    workdir: of the run; profiles go to `workdir/plugins/profile`.
    writer: from `create_writer`.
    config: of the run.
    profile_at: step at which a profile of five steps starts, or None.
  """
  from clu import periodic_actions

  progress = periodic_actions.ReportProgress(
      num_train_steps=config.num_steps, writer=writer, every_secs=10
  )
  if profile_at is None or jax.process_index() > 0:
    return [progress]
  profile = periodic_actions.Profile(
      logdir=workdir,
      num_profile_steps=5,
      profile_duration_ms=None,
      first_profile=profile_at,
      every_secs=None,
  )
  return [progress, profile]
