"""Evaluator: all evaluations of a run, from a saved state to its results."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import logging
from etils import epath
import jax

from flax_enn.checkpoints import Checkpointer, fingerprints
from flax_enn.core import Variables
from flax_enn.evaluation.evaluation import Evaluation
from flax_enn.evaluation.partial import EvalCheckpoint
from flax_enn.evaluation.results import (
    Results,
    draw_studies,
    table,
    write_results,
)
from flax_enn.skipped import Skipped

_REPORT_INDICES = 100  # whose functions and votes are drawn


class Evaluator:
  """Scores the states of a run on its evaluations and records the results.

  What was summed is kept while an evaluation runs, and all of it until its
  results are safe: nothing is done twice, wherever the process is killed.
  """

  def __init__(
      self,
      evaluations: Sequence[Evaluation],
      *,
      key: jax.Array,
      workdir: epath.Path,
      identity: Mapping[str, Any],
      writer: Any = None,
      checkpointer: Checkpointer | None = None,
      stop: Callable[[], bool] = lambda: False,
  ):
    """Prepares to evaluate.

    Args:
      evaluations: the first is the run's own, which ranks its checkpoints.
      key: that indices are drawn from.
      workdir: of the run.
      identity: all that decides the numbers beside the variables, as JSON
        types.
      writer: of its metrics, if they are to have curves.
      checkpointer: of the run, if it is to keep the scores.
      stop: whether to stop, asked equally often on every process.
    """
    self._evaluations = evaluations
    self._key = key
    self._workdir = workdir
    self._writer = writer
    self._checkpointer = checkpointer
    self._identity = identity
    self._stop = stop

  def __call__(
      self, variables: Variables, step: int, *, final: bool
  ) -> dict[str, Any] | None:
    """Evaluates a saved state.

    Args:
      variables: of the state.
      step: number of training steps it has seen.
      final: whether the run ends here: then `results.json` and `report.png` are
        written.

    Returns:
      What `results.json` holds, if it was written.

    Raises:
      Preempted: the run was asked to stop; what was summed is kept.
    """
    identity = {
        **self._identity, 'step': step, 'variables': fingerprints(variables),
    }  # fmt: skip
    results, partials = {}, []
    for evaluation in self._evaluations:
      name = evaluation.name
      partial = EvalCheckpoint(
          self._workdir / f'evaluation-{name}.npz',
          {**identity, 'evaluation': name},
          stop=self._stop,
      )
      partials.append(partial)
      skipped = Skipped(self._workdir / 'skipped' / f'evaluation-{name}')
      results[name] = evaluation(variables, self._key, partial, skipped)
      if skipped:
        logging.warning('%s: %d examples are not scored', name, len(skipped))
      self._write(step, evaluation, results[name])
    own = self._evaluations[0]
    if self._writer and self._checkpointer:
      self._writer.flush()  # What has a score is not evaluated again.
      self._checkpointer.score(step, results[own.name].metrics['enn'])
    written = None
    if final:
      written = write_results(self._workdir, step, results)
      self._draw(variables, own, results[own.name])
      draw_studies(self._workdir, results)
    for partial in partials:
      partial.delete()
    return written

  def _write(self, step: int, evaluation: Evaluation, found: Results) -> None:
    """To the curves and the log."""
    scalars = {
        f'{evaluation.name}_{model}/{metric}': value
        for model, values in found.metrics.items()
        for metric, value in values.items()
    }
    if self._writer:
      self._writer.write_scalars(step, scalars)
    n = evaluation.scorer.num_indices
    logging.info(
        'Step %d, %s, %d indices:\n%s',
        *(step, evaluation.name, n, table(found.metrics)),
    )

  def _draw(
      self, variables: Variables, evaluation: Evaluation, found: Results
  ) -> None:
    from flax_enn.evaluation.report import draw  # matplotlib takes its time

    predictor = evaluation.scorer.predictor(
        variables, self._key, _REPORT_INDICES
    )
    draw(self._workdir, found, predictor, evaluation.training_points)
