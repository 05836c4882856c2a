"""Curves, log lines, tables of variables, progress and profiles, by CLU."""

from collections.abc import Generator, Mapping
import contextlib
import importlib.util
from typing import Any

from clu import parameter_overview
from etils import epath
import jax

from flax_enn import storage
from flax_enn.metric_writers import clu_imports

_NEEDED = ('tensorboard', 'matplotlib')


@contextlib.contextmanager
def create_writer(workdir: epath.Path) -> Generator[Any]:
  """A CLU writer: log lines on every host, TensorBoard files from the first.

  Raises:
    ModuleNotFoundError: the extra `train` is not installed.
  """
  bucket = storage.in_bucket(workdir)  # TensorFlow appends to a file there
  needed = (*_NEEDED, 'tensorflow') if bucket else _NEEDED
  missing = [name for name in needed if importlib.util.find_spec(name) is None]
  if missing:
    raise ModuleNotFoundError(
        'training writes its curves for TensorBoard (into a bucket with'
        ' TensorFlow) and draws its report with matplotlib, but'
        f' {" and ".join(missing)} is not installed: pip install'
        " 'flax_enn[train]'"
    )
  metric_writers = clu_imports.metric_writers()
  writers = [metric_writers.LoggingWriter()]
  if jax.process_index() == 0:
    writers.append(_curves(workdir, bucket))
  writer = metric_writers.AsyncMultiWriter(writers)
  with metric_writers.ensure_flushes(writer):
    yield writer


def _curves(workdir: epath.Path, bucket: bool) -> Any:
  """A writer of event files; the import of CLU's takes some seconds."""
  if bucket:
    return clu_imports.metric_writers().SummaryWriter(str(workdir))
  # Imported here, so that all but training does without TensorBoard.
  from flax_enn.metric_writers import event_files

  return event_files.EventFileWriter(workdir)


def log_variables(variables: Mapping[str, Any]) -> None:
  """Logs the shapes of what is trained, and of what is frozen."""
  titles = {'params': 'Trained parameters', 'frozen': 'Frozen variables'}
  for name, title in titles.items():
    if name in variables:
      # Means and deviations would fetch arrays, which other hosts may hold.
      parameter_overview.log_parameter_overview(
          variables[name], msg=title, include_stats=False
      )


def check_profile(profile_at: int | None, config: Any) -> None:
  """Checks that a run has the five steps that a profile takes.

  Args:
    profile_at: step at which it starts, or None.
    config: of the run.

  Raises:
    ValueError: it starts too early or too late.
  """
  if profile_at is not None and not 0 < profile_at < config.num_steps - 5:
    raise ValueError(
        f'--profile_at is {profile_at}; a profile of five steps must start'
        f' after step 0 and end before config.num_steps ({config.num_steps})'
    )


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
  periodic_actions = clu_imports.periodic_actions()
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
