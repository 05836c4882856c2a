"""How a run is judged: its evaluation, in the middle and at the end."""

import dataclasses
import functools
import json
import math
from typing import Any

from absl import logging
from etils import epath

from flax_enn.checkpoints import Checkpoints, fingerprint
from flax_enn.evaluation import Progress, Results, table
from flax_enn.training.distributed import Preempted, Preemption
from flax_enn.training.plan import Plan
from flax_enn.training.state import TrainState, run_keys


@dataclasses.dataclass
class Judge:
  """Evaluates the states of a run on the split it is judged by.

  Attributes:
    plan: of the run.
    writer: of its metrics.
    workdir: of the run; keeps what an evaluation has summed so far.
    checkpoints: of the run, which are ranked by what is found.
    preempted: says whether to stop in the middle.
  """

  plan: Plan
  writer: Any
  workdir: epath.Path
  checkpoints: Checkpoints
  preempted: Preemption

  def __post_init__(self):
    self._key = run_keys(self.plan.config.seed)['evaluation']
    self._evaluator = self.plan.evaluator()
    self._progress: Progress | None = None

  def __call__(self, state: TrainState, step: int) -> Results:
    """Evaluates a saved state; writes, logs and records what is found.

    Raises:
      Preempted: the run was asked to stop; what was summed is kept.
    """
    plan = self.plan
    size = len(plan.dataset.source(plan.split))
    progress = self._progress = Progress(
        self.workdir / 'evaluation.npz',
        {
            'config': json.loads(plan.config.to_json()),
            'step': step,
            'variables': fingerprint(state.variables),
        },
        stop=self.preempted,
    )
    try:
      results = self._evaluator(
          state.variables,
          plan.eval_batches(progress.done),
          self._key,
          num_batches=math.ceil(size / plan.config.batch_size),
          progress=progress,
      )
    except InterruptedError as e:
      raise Preempted(f'Asked to stop while judging step {step}: {e}') from e
    self.writer.write_scalars(
        step,
        {
            f'{plan.split}_{who}/{name}': value
            for who, values in results.metrics.items()
            for name, value in values.items()
        },
    )
    self.writer.flush()  # What has a score is not judged again.
    logging.info(
        'Step %d, %s split, %d indices:\n%s',
        *(step, plan.split, plan.config.eval.num_indices, table(results)),
    )
    self.checkpoints.score(step, results.metrics['enn'])
    return results

  def done(self) -> None:
    """Drops what was kept of the last evaluation: its results are safe."""
    if self._progress is not None:
      self._progress.remove()

  def report(self, state: TrainState, results: Results) -> None:
    """Draws `report.png`."""
    from flax_enn.evaluation.report import draw  # matplotlib takes its time

    predict = functools.partial(
        self._evaluator.predict, state.variables, key=self._key
    )
    draw(self.workdir, results, self.plan.dataset, predict)
