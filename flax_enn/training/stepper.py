"""Training steps by the call: one, or many where they are short.

A step of a small network takes less time than Python needs to start it. Where
the devices hold the data set, one call therefore does several steps, whose
number is an argument of one compiled program: it changes no bit of the result.
"""

from collections.abc import Callable, Iterator
import itertools
import time
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Batch
from flax_enn.data import BatchesThenBlanks
from flax_enn.throttle import Throttle
from flax_enn.training.state import TrainState

# In seconds: a signal to stop waits for as many calls as `Throttle` allows.
_LONGEST_CALL = 0.05
# In a call.
MOST_STEPS = 64

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]]


class Stepper(Protocol):
  """Does the next steps of a run."""

  @property
  def error(self) -> Exception | None:
    """Why this process has nothing more to train on, once that is so."""

  def __call__(
      self, state: TrainState, most: int
  ) -> tuple[TrainState, dict[str, jax.Array], int]:
    """Starts at least one step, and waits for those of some calls before.

    Args:
      state: before the steps; it is donated.
      most: how many steps may be done.

    Returns:
      The state after them, the scalars of the last, and how many were done.
    """


class SingleStepper:
  """A step per call, on batches that come one by one."""

  def __init__(self, train_step: TrainStep, batches: BatchesThenBlanks[Batch]):
    """Takes the compiled step, and global batches on the devices."""
    self._train_step, self._batches = train_step, batches
    self._throttle = Throttle()

  @property
  def error(self) -> Exception | None:
    """What went wrong with the batches."""
    return self._batches.error

  def __call__(
      self, state: TrainState, most: int
  ) -> tuple[TrainState, dict[str, jax.Array], int]:
    state, logs = self._train_step(state, next(self._batches))
    self._throttle(logs)
    return state, logs, 1


class MultiStepper:
  """As many steps per call as take some time, of examples on the devices."""

  error = None  # all examples are here

  def __init__(
      self, multi_step: Any, examples: Batch, ids: Iterator[np.ndarray]
  ):
    """Prepares calls.

    Args:
      multi_step: that of the step, compiled.
      examples: all of them, the same on every device.
      ids: `[B]`, the examples of each batch to come.
    """
    self._multi_step, self._examples, self._ids = multi_step, examples, ids
    self._throttle = Throttle()
    self._number = 1

  def __call__(
      self, state: TrainState, most: int
  ) -> tuple[TrainState, dict[str, jax.Array], int]:
    start = time.perf_counter()
    rows = list(itertools.islice(self._ids, min(most, self._number)))
    unused = [rows[0]] * (MOST_STEPS - len(rows))
    state, logs = self._multi_step(
        state, self._examples, np.array(rows + unused, np.int32), len(rows)
    )
    self._throttle(logs)
    took = time.perf_counter() - start
    if took > _LONGEST_CALL:
      self._number = max(1, self._number // 2)
    elif len(rows) == self._number:
      self._number = min(MOST_STEPS, 2 * self._number)
    return state, logs, len(rows)


def multi_step(train_step: TrainStep, where: jax.sharding.Sharding) -> Any:
  """The step made into `(state, examples, rows, count) -> state, scalars`.

  It does the first `count` steps on the batches of examples whose rows are
  `[MOST_STEPS, B]`, placed as `where` says.
  """
  # Traced once, for its shapes and for the loop.
  train_step = jax.jit(train_step)

  def steps(state, examples, rows, count):
    def batch(i):
      return jax.lax.with_sharding_constraint(rows_of(examples, rows[i]), where)

    def body(i, carry):
      return train_step(carry[0], batch(i))

    _, logs = jax.eval_shape(train_step, state, batch(0))
    none = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), logs)
    return jax.lax.fori_loop(0, count, body, (state, none))

  return steps


def rows_of(examples: Batch, rows: jax.Array) -> Batch:
  """The batch of the examples in these rows."""
  return jax.tree.map(lambda leaf: leaf[rows], examples)
