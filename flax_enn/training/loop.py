"""A run from config to results: train, keep, judge, report."""

import collections
from collections.abc import Generator
import contextlib
import functools
import json
from typing import Any

from absl import logging
from clu import parameter_overview
from etils import epath
import jax
import ml_collections

from flax_enn import data, sharding
from flax_enn.checkpoints import Checkpoints, check_init, reading, warm_start
from flax_enn.evaluation import Results, write_results
from flax_enn.training import config as config_lib
from flax_enn.training import distributed, writers
from flax_enn.training.judge import Judge
from flax_enn.training.plan import Plan
from flax_enn.training.state import TrainState, create_train_state

_IN_FLIGHT = 2  # steps; without a limit the host would queue up batches


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    profile_at: int | None = None,
) -> dict[str, Any] | None:
  """Trains what a config describes, going on where the workdir left off.

  Args:
    config: from a file in `configs/`; see `default_config`.
    workdir: folder of the run. It gets `config.json`, `checkpoints/`,
      TensorBoard files, `results.json` and `report.png`.
    profile_at: step at which to profile five steps, or None.

  Returns:
    What `results.json` holds; None where SIGTERM stopped the run, which then
    has saved what it has done.

  Raises:
    ValueError: the config or the workdir is not as it must be.
    FloatingPointError: the loss or the gradient stopped being finite.
  """
  preempted = distributed.Preemption()
  with preempted.listening():
    return _run(config, epath.Path(workdir), profile_at, preempted)


def _run(
    config: ml_collections.ConfigDict,
    workdir: epath.Path,
    profile_at: int | None,
    preempted: distributed.Preemption,
) -> dict[str, Any] | None:
  """The same, while SIGTERM is listened to."""
  plan = Plan.from_config(config)
  if profile_at is not None and not 0 < profile_at < config.num_steps - 5:
    raise ValueError(
        f'--profile_at is {profile_at}; a profile of five steps must start'
        f' after step 0 and end before config.num_steps ({config.num_steps})'
    )
  config_lib.check_workdir(config, workdir)
  _check_start(plan, workdir)
  distributed.check_agreement({
      'the config': config.to_json(),
      'the data set': plan.extent(),
      'the list of checkpoints': reading.steps(workdir),
  })
  distributed.check_shared(workdir)
  with contextlib.ExitStack() as stack:
    stack.enter_context(jax.set_mesh(plan.mesh))
    writer = stack.enter_context(writers.opened(workdir))
    checkpoints = stack.enter_context(
        contextlib.closing(
            Checkpoints(workdir, keep=config.checkpoint.keep)
        )
    )
    state = _first_state(plan, checkpoints, workdir)
    config_lib.claim_workdir(config, workdir)
    judge = Judge(plan, writer, workdir, checkpoints, preempted)
    hooks = writers.create_hooks(workdir, writer, config.num_steps, profile_at)
    try:
      state, results = _train(
          plan, state, checkpoints, judge, writer, hooks, preempted
      )
    except distributed.Preempted as e:
      checkpoints.wait()
      logging.info('%s; the same command goes on from there', e)
      return None
    checkpoints.wait()
    written = write_results(workdir, config.num_steps, plan.split, results)
    judge.done()
    judge.report(state, results)
    logging.info('See results.json and report.png in %s', workdir)
    return written


def _check_start(plan: Plan, workdir: epath.Path) -> None:
  """Checks what the run starts from: its own checkpoints, or another run's.

  Raises:
    ValueError: the checkpoints are beyond the end of the run, or `config.init`
      does not fit.
  """
  steps = reading.steps(workdir)
  if not steps:
    check_init(plan.config.init, workdir, plan.abstract_state)
  elif steps[-1] > plan.config.num_steps:
    raise ValueError(
        f'config.num_steps is {plan.config.num_steps}, but {workdir} has done'
        f' {steps[-1]} steps; set config.num_steps to that or more'
    )


def _first_state(
    plan: Plan, checkpoints: Checkpoints, workdir: epath.Path
) -> TrainState:
  """The latest checkpoint, or a new state, warm-started where asked for."""
  config = plan.config
  restored = checkpoints.restore_latest(plan.abstract_state)
  if restored is not None:
    state, step = restored
    logging.info('Going on from step %d of %s', step, workdir)
    return state
  state = create_train_state(
      plan.network, plan.tx, config.seed, plan.example, plan.mesh
  )
  state = warm_start(state, config.init, workdir)
  variables = {'Trained parameters': state.params}
  if 'frozen' in state.collections:
    variables['Frozen variables'] = state.collections['frozen']
  for title, values in variables.items():
    # Means and deviations would fetch arrays, which other hosts may hold.
    parameter_overview.log_parameter_overview(
        values, msg=title, include_stats=False
    )
  return state


def _train(
    plan: Plan,
    state: TrainState,
    checkpoints: Checkpoints,
    judge: Judge,
    writer: Any,
    hooks: list[Any],
    preempted: distributed.Preemption,
) -> tuple[TrainState, Results]:
  """Steps to the end; keeps and judges the states on the way.

  Raises:
    Preempted: the run was asked to stop; the state is saved.
  """
  config = plan.config
  train_step = plan.jit_train_step()
  start = int(state.step)
  batches = data.prefetch(
      plan.train_batches(start),
      functools.partial(sharding.put_batch, mesh=plan.mesh),
  )
  results, waiting = None, collections.deque()
  if _due(start, config.eval.every) and not checkpoints.scored(start):
    results = judge(state, start)  # where it was killed while being judged
    judge.done()
  for step in range(start + 1, config.num_steps + 1):
    last = step == config.num_steps
    with _kept_on_bad_data(plan, state, step - 1, checkpoints):
      batch = next(batches)
    state, logs = train_step(state, batch)
    waiting.append(logs)
    if len(waiting) > _IN_FLIGHT:
      jax.block_until_ready(waiting.popleft())
    if last or step % config.log_every == 0:
      _check_finite(state, checkpoints)
      writer.write_scalars(
          step, {**logs, 'learning_rate': plan.schedule(step - 1)}
      )
    for hook in hooks:
      hook(step)
    judged = last or _due(step, config.eval.every)
    stop = preempted()
    if stop or judged or _due(step, config.checkpoint.every):
      _check_finite(state, checkpoints)
      writer.flush()  # What is saved is not trained again.
      _save(plan, state, step, checkpoints)
    if stop:
      raise distributed.Preempted(f'Asked to stop after step {step}')
    if judged:
      results = judge(state, step)
      if not last:  # whose results are yet to be written
        judge.done()
  if results is None:  # trained to the end before
    results = judge(state, start)
  return state, results


def _due(step: int, every: int) -> bool:
  return every > 0 and step > 0 and step % every == 0


def _save(
    plan: Plan, state: TrainState, step: int, checkpoints: Checkpoints
) -> None:
  """Starts to save a state that is known to be finite."""
  meta = {'config': json.loads(plan.config.to_json())}
  checkpoints.save(state, step, meta=meta)


@contextlib.contextmanager
def _kept_on_bad_data(
    plan: Plan, state: TrainState, step: int, checkpoints: Checkpoints
) -> Generator[None]:
  """Saves what was trained so far where the next batch cannot be read."""
  try:
    yield
  except ValueError:
    # Saving is a meeting of all hosts, and only this one knows of the error.
    if step and jax.process_count() == 1 and int(state.nonfinite) < 0:
      _save(plan, state, step, checkpoints)
      logging.error('The data broke off; step %d is saved.', step)
    raise


def _check_finite(state: TrainState, checkpoints: Checkpoints) -> None:
  """Reads the flag that travels in the state.

  Raises:
    FloatingPointError: it is up.
  """
  bad = int(state.nonfinite)
  if bad < 0:
    return
  good = checkpoints.latest_step()
  kept = (
      'there is no checkpoint yet'
      if good is None
      else f'the last good checkpoint is that of step {good} in'
      f' {checkpoints.directory}'
  )
  raise FloatingPointError(
      f'the loss, its gradient or the update was not finite in step {bad};'
      f' {kept}. In a new --workdir, lower config.optimizer.learning_rate or'
      ' set config.optimizer.clip_norm'
  )
