"""Evaluation: data sets and metrics in, results and a report out."""

from flax_enn.evaluation.evaluation import Evaluation, create_evaluations
from flax_enn.evaluation.evaluator import Evaluator
from flax_enn.evaluation.partial import EvalCheckpoint, Preempted
from flax_enn.evaluation.results import Results, table, write_results
from flax_enn.evaluation.scorer import Scorer

__all__ = [
    'EvalCheckpoint',
    'Evaluation',
    'Evaluator',
    'Preempted',
    'Results',
    'Scorer',
    'create_evaluations',
    'table',
    'write_results',
]
