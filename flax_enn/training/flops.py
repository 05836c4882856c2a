"""Operations of a program's matrix products and convolutions.

A multiplication and an addition are two. Everything else that a network does is
proportional to the memory it touches, not to its arithmetic.
"""

from collections.abc import Iterator, Sequence
import math
from typing import Any

import jax
import numpy as np


def of_product(out: Sequence[int], contracted: Sequence[int]) -> int:
  """Of a matrix product with results `out`, summing over `contracted`."""
  return 2 * math.prod(out) * math.prod(contracted)


def of_convolution(
    channels_in: int,
    others_out: int,
    windows: Sequence['Window'],
) -> int:
  """Of a convolution, leaving out what falls on padding and holes.

  Args:
    channels_in: that one output depends on: those of the kernel.
    others_out: outputs at one position: batch x channels.
    windows: one for each spatial axis.
  """
  return 2 * channels_in * others_out * math.prod(w.pairs() for w in windows)


class Window:
  """How a kernel moves along one axis."""

  def __init__(
      self,
      size: int,
      kernel: int,
      out: int,
      *,
      stride: int = 1,
      low: int = 0,
      holes: tuple[int, int] = (1, 1),
  ):
    """Describes it.

    Args:
      size: of the input.
      kernel: size of the kernel.
      out: number of positions.
      stride: between them.
      low: padding in front; negative where the input is cut.
      holes: dilation of the input and of the kernel.
    """
    self._size, self._kernel, self._out = size, kernel, out
    self._stride, self._low, self._holes = stride, low, holes

  def pairs(self) -> int:
    """Pairs of a position and a weight that meet a number of the input."""
    dilation, spread = self._holes
    at = (
        np.arange(self._out)[:, None] * self._stride
        + np.arange(self._kernel) * spread
        - self._low
    )
    inside = (at >= 0) & (at < (self._size - 1) * dilation + 1)
    return int((inside & (at % dilation == 0)).sum())


def of_jaxpr(jaxpr: Any) -> int:
  """Of a whole program, on all devices together.

  Loops of known length are multiplied out. Results that nothing uses are left
  out, as far as they are seen without looking into what is called.

  Args:
    jaxpr: an open or closed jaxpr.
  """
  jaxpr = getattr(jaxpr, 'jaxpr', jaxpr)
  total, used = 0, {v for v in jaxpr.outvars if not _is_literal(v)}
  for eqn in reversed(jaxpr.eqns):
    if not eqn.effects and not used.intersection(eqn.outvars):
      continue
    used.update(v for v in eqn.invars if not _is_literal(v))
    total += _of_equation(eqn)
  return total


def _is_literal(variable: Any) -> bool:
  return hasattr(variable, 'val')


def _of_equation(eqn: Any) -> int:
  name, params = eqn.primitive.name, eqn.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    shape = eqn.invars[0].aval.shape
    return of_product(
        eqn.outvars[0].aval.shape, [shape[axis] for axis in contracted]
    )
  if name == 'conv_general_dilated':
    return _of_conv(eqn)
  times = params['length'] if name == 'scan' else 1
  return times * sum(map(of_jaxpr, _called(params)))


def _of_conv(eqn: Any) -> int:
  params = eqn.params
  lhs, rhs = (v.aval.shape for v in eqn.invars)
  out = eqn.outvars[0].aval.shape
  names = params['dimension_numbers']
  windows = [
      Window(
          lhs[names.lhs_spec[axis]],
          rhs[names.rhs_spec[axis]],
          out[names.out_spec[axis]],
          stride=params['window_strides'][axis - 2],
          low=params['padding'][axis - 2][0],
          holes=(
              params['lhs_dilation'][axis - 2],
              params['rhs_dilation'][axis - 2],
          ),
      )
      for axis in range(2, len(lhs))
  ]
  others = math.prod(out[axis] for axis in names.out_spec[:2])
  return of_convolution(rhs[names.rhs_spec[1]], others, windows)


def _called(params: dict[str, Any]) -> Iterator[Any]:
  """The programs that an equation runs; the longest of alternatives."""
  for key, value in params.items():
    if key == 'branches':
      yield max(value, key=of_jaxpr)
    elif key != 'cond_jaxpr':
      leaves = jax.tree.leaves(value, is_leaf=_is_jaxpr)
      yield from filter(_is_jaxpr, leaves)


def _is_jaxpr(value: Any) -> bool:
  return hasattr(getattr(value, 'jaxpr', value), 'eqns')
