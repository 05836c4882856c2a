"""The mean of the index as the only index a loss looks at."""

import dataclasses

import jax

from flax_enn.core import Index, Indexer


@dataclasses.dataclass(frozen=True)
class MeanIndex:
  """An `Objective.indices`: the mean index alone, for distillation.

  >>> MeanIndex()(GaussianIndexer(2), jax.random.key(0))
  Array([[0., 0.]], dtype=float32)
  """

  def __call__(self, indexer: Indexer, key: jax.Array) -> Index:
    """`[1, ...]`: one index.

    Raises:
      ValueError: the distribution has no mean.
    """
    del key
    mean = indexer.mean_index
    if mean is None:
      raise ValueError(
          f'indices are the mean of {indexer}, which has none; leave `indices`'
          ' out, or take a network whose index has a mean'
      )
    return mean[None]
