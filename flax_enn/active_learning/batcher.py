"""The examples of highest priority of a pool, over all devices and hosts."""

from collections.abc import Iterable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from flax_enn import sharding
from flax_enn.active_learning.priorities import Priority, entropy, log_probs
from flax_enn.core import Batch, Index, Variables
from flax_enn.model import Model
from flax_enn.sampling import map_over_index


@dataclasses.dataclass(frozen=True, eq=False)
class PrioritizedBatcher:
  """Takes the examples of highest priority from a pool.

  The pool is read once, a batch at a time, and no more than `size` examples and
  a batch of it are on the devices: it may be larger than memory. The choice is
  that of the whole pool, whatever the batches, devices and hosts (enn's chooses
  on each device by itself).

  Attributes:
    model: network and likelihood.
    priority: one of `PRIORITIES`, or a function of the same form.
    size: examples to take.
    chunk: indices that are mapped over at once.
    mesh: of devices; all along the batch by default.
    rules: what lies on which axis of the mesh.
  """

  model: Model
  priority: Priority = entropy
  size: int = 64
  chunk: int = 100
  mesh: Mesh = dataclasses.field(
      default_factory=lambda: sharding.create_mesh({'data': -1})
  )
  rules: sharding.Rules = dataclasses.field(
      default_factory=lambda: sharding.DEFAULT_RULES
  )

  def __post_init__(self):
    if self.size < 1:
      raise ValueError(f'size is {self.size}; it must be at least 1')

  def __call__(
      self,
      variables: Variables,
      indices: Index,
      pool: Iterable[Batch],
      key: jax.Array,
  ) -> tuple[Batch, np.ndarray]:
    """The examples `[size, ...]`, best first, and their priorities `[size]`.

    Args:
      variables: of the network.
      indices: `[N, ...]`, from `model.network.indexer.sample`.
      pool: this process's shard of each batch, as of `Loader.eval_batches`.
      key: for `uniform`, with the ids of examples.

    Returns:
      Numpy arrays, the same on every process. Where the pool has fewer examples
      the last rows are padding, of mask 0 and priority -inf.

    Raises:
      ValueError: the pool has no batch, or the priority of an example is NaN.
    """
    best, where = None, sharding.batch_sharding(self.mesh, self.rules)
    with sharding.use_mesh(self.mesh, self.rules):
      for batch in pool:
        if best is None:
          none = _none(batch, self.size)
          best = jax.device_put(none, sharding.replicated(self.mesh))
        placed = sharding.make_global_batch(batch, where)
        best = self._take(best, placed, variables, indices, key)
    if best is None:
      raise ValueError('the pool has no batch')
    scores, examples = jax.tree.map(np.asarray, best)
    check_scores(scores, examples.id)
    return examples, scores

  @functools.cached_property
  def _take(self) -> Any:
    """Compiled: the best of those so far and of one more batch."""
    return jax.jit(
        self._best, out_shardings=sharding.replicated(self.mesh)
    )

  def _best(self, best, batch, variables, indices, key):
    def at(index):
      return self.model.network.apply(variables, batch.x, index).preds

    outputs = map_over_index(at, indices, chunk=self.chunk)
    scores = self.priority(
        log_probs(self.model.likelihood, outputs),
        labels=batch.y,
        key=key,
        ids=batch.id,
    )
    scores = jnp.where(batch.mask > 0, scores, -jnp.inf)
    both = jax.tree.map(
        lambda a, b: jnp.concatenate([a, b]), best, (scores, batch)
    )
    # Among equals those that came first. (NaN would come first or last, by its
    # sign: here it is taken, and then refused.)
    ranks = jnp.where(jnp.isnan(both[0]), jnp.inf, both[0])
    _, rows = jax.lax.top_k(ranks, self.size)
    return jax.tree.map(lambda leaf: leaf[rows], both)


def check_scores(scores: np.ndarray, ids: np.ndarray) -> None:
  """Raises a ValueError where a priority `[n]` of examples `[n]` is NaN."""
  if np.isnan(scores).any():
    raise ValueError(
        'the priority is NaN of the examples with id'
        f' {ids[np.isnan(scores)].tolist()}: outputs of the network'
        ' that are not finite, or a label that is no class where the priority'
        ' takes labels. Correct them, or leave them out of the pool'
    )


def _none(batch: Batch, size: int) -> tuple[np.ndarray, Batch]:
  """Padding, with the priority of none."""
  zeros = jax.tree.map(
      lambda leaf: np.zeros((size, *leaf.shape[1:]), leaf.dtype), batch
  )
  return np.full(size, -np.inf, np.float32), zeros.replace(id=zeros.id - 1)
