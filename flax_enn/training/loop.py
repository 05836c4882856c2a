"""A run from config to results: train, save, evaluate, report."""

from collections.abc import Callable, Sequence
import contextlib
import json
from typing import Any

from absl import logging
from etils import epath
import jax
import ml_collections

from flax_enn import (
    agreement,
    build,
    metric_writers,
    run_folder,
    storage,
    switches,
    waiting,
)
from flax_enn.checkpoints import Checkpointer, check_init, layout, warm_start
from flax_enn.evaluation import Evaluator, Preempted
from flax_enn.model import run_keys
from flax_enn.skipped import Skipped
from flax_enn.training import checks
from flax_enn.training.state import TrainState
from flax_enn.training.trainer import Trainer
from flax_enn.workdir_lock import WorkdirLock


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    profile_at: int | None = None,
    hooks: Sequence[Callable[[int], Any]] = (),
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any] | None:
  """Trains what a config describes, going on where the workdir left off.

  Args:
    config: from a file in `configs/`; see `default_config`.
    workdir: folder of the run. It gets `config.json`, `model.json`,
      `switches.json`, `checkpoints/`, TensorBoard files, `results.json` and
      `report.png`.
    profile_at: step at which to profile five steps, or None.
    hooks: called with the number of each step, after the call of `Stepper` that
      did it.
    stop: whether to save and stop, asked as often, and after each batch of an
      evaluation, equally often on every process; see `distributed.Preemption`.

  Returns:
    What `results.json` holds; None where `stop` ended the run, which then has
    saved what it has done.

  Raises:
    ValueError: the config or the workdir is not as it must be.
    OSError: the workdir cannot be read or written.
    FloatingPointError: the loss or the gradient stopped being finite.
    WorkdirInUseError: another run has the workdir.
  """
  workdir = epath.Path(workdir).expanduser()
  with contextlib.ExitStack() as stack:
    lock = stack.enter_context(WorkdirLock(workdir))
    stack.enter_context(storage.disk_errors_named(workdir))
    run_folder.check_not_imported(workdir)
    trainer = Trainer.from_config(config)
    config = trainer.config
    _check_run(trainer, workdir, profile_at)
    agreement.check_shared_filesystem(workdir)
    stack.enter_context(trainer.use_mesh())
    writer = stack.enter_context(metric_writers.create_writer(workdir))
    checkpointer = stack.enter_context(
        contextlib.closing(Checkpointer(workdir, keep=config.checkpoint.keep))
    )
    state = _first_state(trainer, checkpointer, workdir)
    waiting.meet('restored or made the first state')
    run_folder.write_config(config, workdir)
    run_folder.write_json(workdir / 'model.json', trainer.model.describe())
    switches.write(workdir)
    evaluator = Evaluator(
        trainer.evaluations,
        key=run_keys(config.seed)['evaluation'],
        workdir=workdir,
        writer=writer,
        checkpointer=checkpointer,
        identity={'config': json.loads(config.to_json())},
        stop=stop,
    )
    own = metric_writers.create_hooks(workdir, writer, config, profile_at)
    hooks = (*own, lambda _: lock.check(), *hooks)
    try:
      state = _train(
          trainer, state, checkpointer, evaluator, writer, hooks, stop,
          profile_at,
      )  # fmt: skip
      results = evaluator(state.variables, config.num_steps, final=True)
    except Preempted as e:
      checkpointer.wait()
      logging.info('%s; the same command goes on from there', e)
      return None
    checkpointer.wait()
    logging.info('See results.json and report.png in %s', workdir)
    return results


def _train(
    trainer: Trainer,
    state: TrainState,
    checkpointer: Checkpointer,
    evaluator: Evaluator,
    writer: Any,
    hooks: Sequence[Callable[[int], Any]],
    stop: Callable[[], bool],
    profile_at: int | None,
) -> TrainState:
  """Steps to the end and returns the last state, saved, not yet evaluated.

  Raises Preempted where the run was asked to stop; the state is saved.
  """
  config, start = trainer.config, int(state.step)
  unfinished = start < config.num_steps and _due(start, config.eval.every)
  if unfinished and not checkpointer.scored(start):  # killed on the way
    evaluator(state.variables, start, final=False)
  skipped = Skipped(checkpointer.directory.parent / 'skipped' / 'train')
  if skipped:
    logging.warning('%d examples were passed over so far', len(skipped))
  stepper, step = trainer.stepper(start, skipped), start
  while step < config.num_steps:
    most = _until_due(step, config, profile_at)
    state, logs, number = stepper(state, most)
    stopped = False
    for _ in range(number):
      step += 1
      for hook in hooks:
        hook(step)
      stopped |= stop()
    last = step == config.num_steps
    log = last or _due(step, config.log_every)
    evaluate = _due(step, config.eval.every)
    save = last or evaluate or stopped or _due(step, config.checkpoint.every)
    if log or save or (stepper.error and jax.process_count() == 1):
      _check_finite(state, checkpointer, start)
      _check_trained(state, checkpointer, step, stepper.error)
    if log:
      writer.write_scalars(
          step, {**logs, 'learning_rate': trainer.schedule(step - 1)}
      )
    if save:
      writer.flush()  # What is saved is not trained again.
      checkpointer.save(state, step)
    if stopped:
      raise Preempted(f'Asked to stop after step {step}')
    if evaluate and not last:
      evaluator(state.variables, step, final=False)
  return state


def _until_due(
    step: int, config: ml_collections.ConfigDict, profile_at: int | None
) -> int:
  """The number of steps until there is something else to do."""
  every = config.log_every, config.eval.every, config.checkpoint.every
  due = {step + n - step % n for n in every if n > 0} | {config.num_steps}
  if profile_at is not None:
    due |= {profile_at, profile_at + 5}
  return min(n for n in due if n > step) - step


def _due(step: int, every: int) -> bool:
  return every > 0 and step > 0 and step % every == 0


def _check_run(
    trainer: Trainer, workdir: epath.Path, profile_at: int | None
) -> None:
  """Checks the config, the data, the workdir and the other processes."""
  config = trainer.config
  metric_writers.check_profile(profile_at, config)
  switches.check(workdir)
  # What is wrong with the data, before a network is fitted to them.
  checks.check_data(trainer)
  checks.check(trainer, trainer.num_examples)
  run_folder.check_resumable(config, workdir, trainer.model.describe())
  steps = layout.steps(workdir)
  if not steps:
    with build.located('config.init'):
      check_init(config.init, workdir, trainer.abstract_state)
  elif steps[-1] > config.num_steps:
    raise ValueError(
        f'config.num_steps is {config.num_steps}, but {workdir} has done'
        f' {steps[-1]} steps; set config.num_steps to that or more'
    )
  agreement.assert_equal_across_processes({
      'the config': config.to_json(),
      'what switches JAX and XLA': switches.current(),
      'the data set': (trainer.model.spec, trainer.num_examples),
      'the list of checkpoints': steps,
  })


def _first_state(
    trainer: Trainer, checkpointer: Checkpointer, workdir: epath.Path
) -> TrainState:
  """The latest checkpoint, or a new state, warm-started where asked for."""
  restored = checkpointer.restore_latest(trainer.abstract_state)
  if restored is not None:
    state, step = restored
    logging.info('Going on from step %d of %s', step, workdir)
    return state
  state = warm_start(trainer.create_state(), trainer.config.init, workdir)
  metric_writers.log_variables(state.variables)
  return state


def _check_trained(
    state: TrainState, saved: Checkpointer, step: int, error: Exception | None
) -> None:
  """Raises, the state saved, where a process had nothing to train on."""
  done = int(state.step)
  if done == step:
    return
  saved.save(state, done)
  mistake = agreement.on_any_process(isinstance(error, ValueError))
  raise error or (ValueError if mistake else ConnectionError)(
      f'another process cannot read step {done + 1}; step {done} is saved'
  )


def _check_finite(state: TrainState, saved: Checkpointer, start: int) -> None:
  """Raises a FloatingPointError where a step since `start` was not finite."""
  bad = int(state.first_nonfinite_step)
  if bad < 0:
    return
  good, where = saved.latest_step() or 'none yet', saved.directory
  mend = (
      'In a new --workdir, lower config.optimizer.learning_rate or set'
      ' config.optimizer.clip_norm'
  )
  if start and bad == start + 1:
    mend = (
        f'It is the first since {where / str(start)} was restored: look at what'
        ' has changed, or move that folder away to go on from the one before'
    )
  raise FloatingPointError(
      f'the loss, its gradient or the update was not finite in step {bad}; the'
      f' last good step in {where} is {good}. {mend}'
  )
