"""Evaluation: data sets and metrics in, results and a report out."""

from flax_enn.evaluation.evaluate import Evaluator
from flax_enn.evaluation.progress import Progress
from flax_enn.evaluation.results import Results, table, write_results

__all__ = ['Evaluator', 'Progress', 'Results', 'table', 'write_results']
