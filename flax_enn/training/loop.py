"""A run from config to results: train, keep, judge, report."""

import collections
import contextlib
import functools
import json
import math
from typing import Any

from absl import logging
from clu import parameter_overview
from etils import epath
import jax
import ml_collections

from flax_enn import data, sharding
from flax_enn.checkpoints import Checkpoints, check_init, warm_start
from flax_enn.evaluation import Evaluator, Results, table, write_results
from flax_enn.training import config as config_lib
from flax_enn.training import writers
from flax_enn.training.plan import Plan
from flax_enn.training.state import TrainState, create_train_state, run_keys

_IN_FLIGHT = 2  # steps; without a limit the host would queue up batches


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: epath.PathLike,
    *,
    profile_at: int | None = None,
) -> dict[str, Any]:
  """Trains what a config describes, going on where the workdir left off.

  Args:
    config: from a file in `configs/`; see `default_config`.
    workdir: folder of the run. It gets `config.json`, `checkpoints/`,
      TensorBoard files, `results.json` and `report.png`.
    profile_at: step at which to profile five steps, or None.

  Returns:
    What `results.json` holds.

  Raises:
    ValueError: the config or the workdir is not as it must be.
    FloatingPointError: the loss or the gradient stopped being finite.
  """
  workdir = epath.Path(workdir)
  plan = Plan.from_config(config)
  config_lib.check_workdir(config, workdir)
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
    judge = Judge(plan, writer)
    hooks = writers.create_hooks(workdir, writer, config.num_steps, profile_at)
    state, results = _train(plan, state, checkpoints, judge, writer, hooks)
    judge.report(state, results, workdir)
    return write_results(workdir, config.num_steps, judge.split, results)


def _first_state(
    plan: Plan, checkpoints: Checkpoints, workdir: epath.Path
) -> TrainState:
  """The latest checkpoint, or a new state, warm-started where asked for."""
  config, abstract = plan.config, plan.abstract_state()
  restored = checkpoints.restore_latest(abstract)
  if restored is not None:
    state, step = restored
    if step > config.num_steps:
      raise ValueError(
          f'config.num_steps is {config.num_steps}, but the run in {workdir} has'
          f' done {step} steps; set config.num_steps to that or more'
      )
    logging.info('Going on from step %d of %s', step, workdir)
    return state
  check_init(config.init, workdir, abstract)
  state = create_train_state(
      plan.network, plan.tx, config.seed, plan.example, plan.mesh
  )
  state = warm_start(state, config.init, workdir)
  parameter_overview.log_parameter_overview(
      state.params, msg='Trained parameters'
  )
  if 'frozen' in state.collections:
    parameter_overview.log_parameter_overview(
        state.collections['frozen'], msg='Frozen variables'
    )
  return state


def _train(
    plan: Plan,
    state: TrainState,
    checkpoints: Checkpoints,
    judge: 'Judge',
    writer: Any,
    hooks: list[Any],
) -> tuple[TrainState, Results]:
  """Steps to the end; keeps and judges the states on the way."""
  config = plan.config
  train_step = jax.jit(
      plan.train_step(),
      donate_argnums=0,
      out_shardings=(jax.tree.map(lambda a: a.sharding, state), None),
  )
  start = int(state.step)
  batches = data.prefetch(
      data.train_batches(
          plan.dataset,
          batch_size=config.batch_size,
          seed=config.seed,
          start=start,
          **plan.loader,
      ),
      functools.partial(sharding.put_batch, mesh=plan.mesh),
  )
  results, waiting = None, collections.deque()
  for step in range(start + 1, config.num_steps + 1):
    last = step == config.num_steps
    state, logs = train_step(state, next(batches))
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
    if judged:
      results = judge(state, step)
    if judged or _due(step, config.checkpoint.every):
      _check_finite(state, checkpoints)
      checkpoints.save(
          state,
          step,
          metrics=results.metrics['enn'] if judged else None,
          meta={'config': json.loads(config.to_json())},
      )
  return state, results or judge(state, config.num_steps)


def _due(step: int, every: int) -> bool:
  return every > 0 and step % every == 0


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
      f'the loss or its gradient was not finite at step {bad}; {kept}. Lower'
      ' config.optimizer.learning_rate, or set config.optimizer.clip_norm'
  )


class Judge:
  """Evaluates the states of a run on the split it is judged by."""

  def __init__(self, plan: Plan, writer: Any):
    self._plan = plan
    self._writer = writer
    config = plan.config
    # Tuning is judged on a part of the training split, never on the test split.
    self.split = 'validation' if config.dataset.get('holdout') else 'test'
    self._key = run_keys(config.seed)['evaluation']
    self._evaluator = Evaluator(
        network=plan.network,
        dataset=plan.dataset,
        num_indices=config.eval.num_indices,
        tau=config.eval.tau,
        chunk=config.eval.chunk,
        mesh=plan.mesh,
    )

  def __call__(self, state: TrainState, step: int) -> Results:
    """Evaluates, writes the metrics and logs them as a table."""
    plan = self._plan
    batch_size = plan.config.batch_size
    batches = data.eval_batches(
        plan.dataset, self.split, batch_size=batch_size, **plan.loader
    )
    size = len(plan.dataset.source(self.split))
    results = self._evaluator(
        state.variables,
        batches,
        self._key,
        num_batches=math.ceil(size / batch_size),
    )
    self._writer.write_scalars(
        step,
        {
            f'{self.split}_{who}/{name}': value
            for who, values in results.metrics.items()
            for name, value in values.items()
        },
    )
    logging.info(
        'Step %d, %s split, %d indices:\n%s',
        *(step, self.split, plan.config.eval.num_indices, table(results)),
    )
    return results

  def report(
      self, state: TrainState, results: Results, workdir: epath.Path
  ) -> None:
    """Draws `report.png`."""
    from flax_enn.evaluation.report import draw  # matplotlib takes its time

    predict = functools.partial(
        self._evaluator.predict, state.variables, key=self._key
    )
    draw(workdir, results, self._plan.dataset, predict)
