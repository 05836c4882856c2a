"""Active learning: which labels to ask for next.

`PRIORITIES` score unlabelled examples from the predictions at many indices;
`PrioritizedBatcher` takes those of highest priority from a pool, and
`double_thompson` the two items to compare. What a label tells about the labels
of others is `flax_enn.inference.Predictor.information_gain`. A config can name
all of them, see `recipe`.
"""

from flax_enn.active_learning.batcher import PrioritizedBatcher
from flax_enn.active_learning.double_thompson import double_thompson
from flax_enn.active_learning.priorities import PRIORITIES, Priority, log_probs

__all__ = [
    'PRIORITIES',
    'PrioritizedBatcher',
    'Priority',
    'double_thompson',
    'log_probs',
]
