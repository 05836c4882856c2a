"""The penalty on the size of the trained parameters."""

from collections.abc import Callable, Mapping
import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, Variables, promote_to_float32

# From path and parameter to the factor of its squares: 0 leaves it out.
Scale = Callable[[str, jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class L2Penalty:
  """The sum of squares of the kernels in `params`, each times its scale.

  Priors and pre-trained bases live in the collection `frozen` and are never
  counted. (Weight decay in the optimizer is not this for adaptive optimizers:
  Loshchilov and Hutter, arXiv:1711.05101.)

  >>> L2Penalty(0.5)(output, batch, variables=variables)  # kernel of 4 ones
  Array(2., dtype=float32)
  >>> by_path = L2Penalty({'head/': 1.0, '/kernel': 0.25})
  >>> by_path(output, batch, variables=variables)
  Array(1., dtype=float32)

  Attributes:
    scale: factor of all squares, at least 0; or factors by regular expressions,
      of which the first that is found in a parameter's path (`dense/kernel`)
      counts, and those without one are left out; or a function of path and
      parameter.
    biases: count every parameter, not only those named `...kernel`; of no
      meaning where `scale` chooses them.
  """

  scale: float | Mapping[str, float] | Scale
  biases: bool = False

  def __post_init__(self):
    scale = self.scale
    if isinstance(scale, Mapping):
      scale = _ByPath(tuple(scale.items()))
      object.__setattr__(self, 'scale', scale)  # so that the loss hashes
    factors = scale.factors if isinstance(scale, _ByPath) else [('', scale)]
    for _, factor in factors:
      if not callable(factor) and not 0 <= factor < math.inf:
        raise ValueError(
            f'scale is {factor}; set it to a finite number, at least 0'
        )

  def __call__(
      self, outputs: Output, batch: Batch, *, variables: Variables, **_
  ) -> jax.Array:
    """`[]`: the penalty, the same for every example and index."""
    del outputs, batch
    total = jnp.zeros(())
    for path, leaf in jax.tree.leaves_with_path(variables['params']):
      # A boxed parameter ends in an attribute `.value` below its name.
      keys = [k.key for k in path if isinstance(k, jax.tree_util.DictKey)]
      scale = self._scale('/'.join(map(str, keys)), leaf)
      if callable(self.scale) or scale:
        total += scale * jnp.sum(jnp.square(promote_to_float32(leaf)))
    return total

  def _scale(self, path: str, parameter: jax.Array) -> Any:
    if callable(self.scale):
      return self.scale(path, parameter)
    return self.scale if self.biases or path.endswith('kernel') else 0.0


@dataclasses.dataclass(frozen=True)
class _ByPath:
  """The factor of the first regular expression that a path has."""

  factors: tuple[tuple[str, float], ...]

  def __call__(self, path: str, parameter: jax.Array) -> float:
    del parameter
    found = (f for pattern, f in self.factors if re.search(pattern, path))
    return next(found, 0.0)
