"""A batch in microbatches, one after the other, to save memory."""

from typing import Any

import jax
import jax.numpy as jnp

from flax_enn import backend
from flax_enn.core import Batch
from flax_enn.training.state import TrainState

# Microbatches in one program without a loop: more take long to compile.
MAX_UNROLLED = 16


def examples(batch: Batch) -> jax.Array:
  """The number of unmasked examples, `[]`; 1 where there is none."""
  return jnp.maximum(batch.mask.sum(), 1)


def unrolls(state: TrainState, batch: Batch, parts: int) -> bool:
  """Whether microbatches are unrolled in the program, and not in a loop.

  XLA for CPUs takes five to twenty times as long for convolutions in a loop.
  """
  return (
      backend.on_cpu()
      and parts <= MAX_UNROLLED
      and any(leaf.ndim > 3 for leaf in jax.tree.leaves(state.variables))
      and any(_is_real(leaf) for leaf in jax.tree.leaves(batch.x))
  )


def _is_real(leaf: jax.Array) -> bool:
  return jnp.issubdtype(leaf.dtype, jnp.floating)


def _after(x: Any, values: Any) -> Any:
  """Inputs that exist once `values` do; NaN where these are not finite.

  Without a loop XLA would run all microbatches side by side and keep the
  activations of all; its CPU compiler ignores optimization barriers there.
  """
  leaves = jax.tree.leaves(values)
  finite = jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()
  return jax.tree.map(
      lambda leaf: jnp.where(finite, leaf, jnp.nan) if _is_real(leaf) else leaf,
      x,
  )


def accumulate(
    gradient: Any,
    statistics: Any,
    batch: Batch,
    key: jax.Array,
    parts: int,
    unroll: bool,
) -> tuple[Any, Any]:
  """Runs `gradient` on one microbatch after the other.

  Returns the statistics and the means of the values, over unmasked examples.
  """

  # `[B, ...]` as `[parts, B / parts, ...]`, each spread over all devices.
  def split(leaf):
    return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)

  microbatches = jax.tree.map(split, batch), jax.random.split(key, parts)
  total = examples(batch)

  def add(carry, microbatch):
    statistics, sums = carry
    part, part_key = microbatch
    if unroll:
      value, _, gradients = sums  # what is logged may be NaN
      part = part.replace(x=_after(part.x, (value, gradients)))
    statistics, values = gradient(statistics, part, part_key)
    share = part.mask.sum() * parts / total
    sums = jax.tree.map(lambda a, b: a + share * b, sums, values)
    return (statistics, sums), None

  first = jax.tree.map(lambda leaf: leaf[0], microbatches)
  _, shapes = jax.eval_shape(gradient, statistics, *first)
  zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
  (statistics, sums), _ = jax.lax.scan(
      add, (statistics, zeros), microbatches, unroll=parts if unroll else 1
  )
  return statistics, jax.tree.map(lambda leaf: leaf / parts, sums)
