"""Examples of another data set, for an objective that is not of the data."""

import jax
import jax.numpy as jnp

from flax_enn.core import Batch
from flax_enn.data.base import Dataset
from flax_enn.data.in_memory import Pair, data_set_of
from flax_enn.data.loader import Loader


class Sampled:
  """An `Objective.inputs`: examples of another data set, in place of the batch.

  As many as the batch has, drawn anew in each step, with replacement; their ids
  are those of that data set. All of it is a part of the compiled step: it must
  be small. (The data set of each of enn's `MultilossTrainer`s.)

  >>> other = Sampled((jnp.ones((50, 3)), jnp.arange(50)))
  >>> other(batch, jax.random.key(0)).x.shape  # as inputs=other
  (4, 3)
  """

  def __init__(self, dataset: Dataset | Pair):
    """Reads the training split.

    Args:
      dataset: or arrays (x, y).

    Raises:
      ValueError: x and y are not those of as many examples.
    """
    data, loader = data_set_of(dataset, 'dataset'), Loader()
    n = len(loader.source(data, 'train'))
    (self._examples,) = loader.eval_batches(
        data, 'train', data.spec, batch_size=n
    )

  def __call__(self, batch: Batch, key: jax.Array) -> Batch:
    """A batch of the other examples."""
    n = len(self._examples.id)
    rows = jax.random.randint(key, batch.mask.shape, 0, n)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], self._examples)
