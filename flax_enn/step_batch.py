"""What a network may know of the batch that it is trained on, beside x.

A network whose statistics are sums over the training examples, such as
`Laplace`, needs to know which rows are examples and how many of these there
are. Only the training step knows, and it says so here while the network is
traced; so no network that wraps another has to hand it on.
"""

from collections.abc import Generator
import contextlib
import contextvars
from typing import NamedTuple

import jax
import jax.numpy as jnp

from flax_enn.core import Batch


class Examples(NamedTuple):
  """The rows of a batch as examples of a training split.

  Attributes:
    mask: `[B]`, 1 for an example, and 0 for padding and for a row that stands
      in for one that cannot be read.
    weight: `[B]`, that of each example, 0 where the mask is.
    num_examples: in the training split, `[]`; None where no step says so.
  """

  mask: jax.Array
  weight: jax.Array
  num_examples: int | jax.Array | None


_current = contextvars.ContextVar[Examples | None]('the batch', default=None)


@contextlib.contextmanager
def training_on(
    batch: Batch, num_examples: int | jax.Array
) -> Generator[None]:
  """Says that what is applied inside is trained on this batch.

  Args:
    batch: the one whose x the network is given.
    num_examples: in the training split.
  """
  with _set(Examples(batch.mask, batch.mask * batch.weight, num_examples)):
    yield


@contextlib.contextmanager
def repeated(times: int) -> Generator[None]:
  """Says that inside each row of the batch is so many rows, one by one."""
  found = _current.get()
  if found is not None:
    mask, weight, n = found
    mask, weight = jnp.repeat(mask, times), jnp.repeat(weight, times)
    found = Examples(mask, weight, None if n is None else times * n)
  with _set(found):
    yield


@contextlib.contextmanager
def _set(examples: Examples | None) -> Generator[None]:
  token = _current.set(examples)
  try:
    yield
  finally:
    _current.reset(token)


def examples(rows: int, owner: str) -> Examples:
  """What the step says of its batch; outside of a step all rows count alike.

  Args:
    rows: B, as the network sees it.
    owner: name of the network, for errors.

  Raises:
    ValueError: the network sees other rows than those of the batch.
  """
  found = _current.get()
  if found is None:
    return Examples(jnp.ones(rows), jnp.ones(rows), None)
  if found.mask.shape != (rows,):
    raise ValueError(
        f'{owner} adds up over {rows} rows, but the batch has'
        f' {len(found.mask)} examples; put it where each row of its inputs is'
        ' an example'
    )
  return found
