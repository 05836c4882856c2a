"""What a predictor has compiled, and how its inputs get to the devices."""

from collections.abc import Callable, Iterator
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
import numpy as np

from flax_enn import sharding
from flax_enn.inference.functions import Functions
from flax_enn.model import Model

MAX_ROWS = 128  # of a piece; more inputs are several pieces


class Piece(NamedTuple):
  """Some rows of inputs and targets, padded to one of a few sizes.

  Attributes:
    arrays: pytree of global arrays `[b, ...]`.
    mask: `[b]` bool, False for padding.
    rows: how many are no padding.
  """

  arrays: Any
  mask: jax.Array
  rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class Programs:
  """The functions of one model, compiled for one mesh on first use.

  All predictors that were made from one by conditioning share them.

  Attributes:
    model: that predicts.
    mesh: of devices.
    rules: what lies on which axis of it.
    functions: that are compiled.
  """

  model: Model
  mesh: Mesh
  rules: sharding.Rules
  functions: Functions
  _compiled: dict[Any, Any] = dataclasses.field(default_factory=dict)

  def run(
      self,
      fn: Callable[..., Any],
      *args: Any,
      gather: bool = True,
      **static: Any,
  ) -> Any:
    """`fn(functions, *args, **static)`, compiled on its first call.

    Args:
      fn: a method of `Functions`, or a function that takes one first.
      *args: global arrays, or pytrees of them.
      gather: whether every device gets all of the results; False leaves them
        where they were computed.
      **static: what is compiled into it.
    """
    key = fn, gather, tuple(static.items())
    if key not in self._compiled:
      where = sharding.replicated(self.mesh) if gather else None
      self._compiled[key] = jax.jit(
          functools.partial(fn, self.functions, **static), out_shardings=where
      )
    with sharding.use_mesh(self.mesh, self.rules):
      return self._compiled[key](*args)

  def run_pieces(
      self, fn: Callable[..., Any], args: Any, x: Any, axis: int = 0
  ) -> Any:
    """Numpy results of all `pieces` of x, concatenated without padding.

    Args:
      fn: a method of `Functions`, called with args and x.
      args: that come before x.
      x: pytree of numpy arrays `[B, ...]`.
      axis: of B in the results.
    """
    found = []
    for piece in self.pieces(x):
      result = jax.device_get(self.run(fn, *args, piece.arrays))
      rows = range(piece.rows)
      found.append(jax.tree.map(lambda a, r=rows: a.take(r, axis), result))
    return jax.tree.map(lambda *a: np.concatenate(a, axis), *found)

  def sum_pieces(self, fn: Callable[..., Any], args: Any, x: Any) -> Any:
    """The sum of `fn(functions, *args, *arrays, mask)` over `pieces` of x."""
    return sum(
        self.run(fn, *args, *piece.arrays, piece.mask)
        for piece in self.pieces(x)
    )

  def put(self, tree: Any) -> Any:
    """Numpy arrays, the same on every process, as replicated global arrays."""
    where = sharding.replicated(self.mesh)
    return jax.tree.map(lambda a: self._global(np.asarray(a), where), tree)

  def pieces(self, arrays: Any, most: int = MAX_ROWS) -> Iterator[Piece]:
    """Cuts and pads arrays `[B, ...]`, the same on every process.

    A piece has 1, 2, 4 … rows per device, and the last one is as small as its
    rows allow: so few sizes are ever compiled.

    Args:
      arrays: pytree of numpy arrays.
      most: rows of a piece, about.
    """
    where = sharding.batch_sharding(self.mesh, self.rules)
    unit = self.mesh.size
    most = _size(unit, most)
    total = len(jax.tree.leaves(arrays)[0])
    for start in range(0, total, most):
      rows = min(most, total - start)
      # The last row is repeated: padding is an input like any other.
      kept = np.minimum(np.arange(_size(unit, rows)), rows - 1) + start
      piece = jax.tree.map(
          lambda a, kept=kept: self._global(a[kept], where), arrays
      )
      mask = self._global(np.arange(len(kept)) < rows, where)
      yield Piece(piece, mask, rows)

  def _global(self, array: np.ndarray, where: sharding.NamedSharding) -> Any:
    return jax.make_array_from_callback(array.shape, where, array.__getitem__)


def _size(unit: int, rows: int) -> int:
  """The least unit * 2^k that holds the rows."""
  size = unit
  while size < rows:
    size *= 2
  return size
