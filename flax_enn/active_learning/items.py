"""The items that a pool of pairs is of, and their rewards."""

import dataclasses
from typing import Any, Self

import jax
import numpy as np

from flax_enn.core import Batch, Index, Variables
from flax_enn.inference.functions import Functions
from flax_enn.inference.programs import Programs
from flax_enn.model import Model
from flax_enn.networks.preference import Preference


def compares_items(model: Model) -> bool:
  """Whether an input is two items, and the network has rewards of items."""
  sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(model.input_spec)}
  return (
      isinstance(model.network, Preference)
      and model.likelihood.num_classes == 2
      and sizes == {(2,)}
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Items:
  """The M items that P labelled pairs are of.

  Attributes:
    programs: of the model.
    x: pytree of numpy `[M, 1, ...]`: each item a choice of one, whose logit is
      its reward.
    pairs: `[P, 2]` numbers of the items of each pair.
    mask: `[P]`, 0 where a pair cannot be read.
    wins: `[M]` of the pairs with an item, the share whose label prefers it.
  """

  programs: Programs
  x: Any
  pairs: np.ndarray
  mask: np.ndarray
  wins: np.ndarray

  @classmethod
  def of(cls, programs: Programs, batch: Batch) -> Self:
    """Finds the items: two are the same where all their numbers are.

    Args:
      programs: of the model.
      batch: numpy pairs `[P, 2, ...]`, all of them.
    """
    n = 2 * len(batch.y)
    each = jax.tree.map(lambda a: a.reshape(n, *a.shape[2:]), batch.x)
    content = [
        np.ascontiguousarray(a).reshape(n, -1).view(np.uint8)
        for a in jax.tree.leaves(each)
    ]
    _, first, numbers = np.unique(
        np.concatenate(content, axis=1),
        axis=0,
        return_index=True,
        return_inverse=True,
    )
    pairs = numbers.reshape(-1, 2)
    preferred = np.bincount(
        pairs[np.arange(len(pairs)), batch.y], batch.mask, len(first)
    )
    shown = np.bincount(pairs.ravel(), np.repeat(batch.mask, 2))
    return cls(
        programs,
        jax.tree.map(lambda a: a[first][:, None], each),
        pairs,
        batch.mask,
        preferred / np.maximum(shown, 1),
    )

  def rewards(self, variables: Variables, indices: Index) -> np.ndarray:
    """`[N, M]` of each item at each index."""
    args = variables, indices
    return self.programs.run_pieces(Functions.logits, args, self.x, axis=1)[
        ..., 0
    ]

  def regret(self, variables: Variables, indices: Index) -> float:
    """How much less often the item of highest mean reward wins than the best.

    By `wins`, of all labels: those that nobody has asked for too.
    """
    taken = self.rewards(variables, indices).mean(0).argmax()
    return float(self.wins.max() - self.wins[taken])
