"""Gradients that are taken in some steps of a program only."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from flax_enn import backend

T = TypeVar('T')


def gated(due: jax.Array | bool, fn: Callable[..., T], *args: Any) -> T:
  """`fn(*args)`, whose gradient is 0 where it is not due.

  0 whatever the gradient would be: a product with 0 would keep NaN. What is not
  due has no backward pass, except where a branch for it would cost more.

  Args:
    due: `[]`, or a bool where it is always the same.
    fn: function of arrays.
    *args: pytrees of them; what `fn` closes over must need no gradient.
  """

  def constant(*args: Any) -> T:
    return jax.lax.stop_gradient(fn(*args))

  def gate(leaf: jax.Array) -> jax.Array:
    return jnp.where(due, leaf, jax.lax.stop_gradient(leaf))

  if isinstance(due, bool):
    return fn(*args) if due else constant(*args)
  # In a branch, XLA for CPUs takes a hundred times as long for the gradient of
  # a convolution.
  if backend.on_cpu() and any(leaf.ndim > 3 for leaf in jax.tree.leaves(args)):
    return fn(*jax.tree.map(gate, args))
  return jax.lax.cond(due, fn, constant, *args)
