"""Examples of another data set, for an objective that is not of the data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from flax_enn.core import Batch
from flax_enn.data.base import Dataset
from flax_enn.data.in_memory import MOST_RESIDENT, Pair, data_set_of
from flax_enn.data.loader import Loader


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
  """An `Objective.inputs`: examples of another data set, in place of the batch.

  As many as the batch has, drawn anew in each step, with replacement; their ids
  are those of that data set. All of it is a part of the compiled step: it must
  be small. (The data set of each of enn's `MultilossTrainer`s.)

  >>> other = Sampled((jnp.ones((50, 3)), jnp.arange(50)))
  >>> other(batch, jax.random.key(0)).x.shape  # as inputs=other
  (4, 3)

  Attributes:
    dataset: whose training split it is, or arrays (x, y).
    like: the data that the network is trained on, which says how inputs are
      preprocessed and what labels may be; `dataset` itself by default.
  """

  dataset: Dataset | Pair
  like: Dataset | Pair | None = None

  @functools.cached_property
  def examples(self) -> Batch:
    """All of them.

    Raises:
      ValueError: they are not of the form of `like`, or too many.
    """
    data, loader = data_set_of(self.dataset, 'dataset'), Loader()
    like = data if self.like is None else data_set_of(self.like, 'like')
    n = len(loader.source(data, 'train'))
    (batch,) = loader.eval_batches(data, 'train', like.spec, batch_size=n)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
    if size > MOST_RESIDENT:
      raise ValueError(
          f'dataset has {n} examples of {size} bytes in all, which would be'
          f' compiled into the step, where at most {MOST_RESIDENT} may be; take'
          ' a part of it'
      )
    return batch

  def __call__(self, batch: Batch, key: jax.Array) -> Batch:
    """A batch of the other examples."""
    rows = jax.random.randint(key, batch.mask.shape, 0, len(self.examples.id))
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], self.examples)
