"""What a conversion gives: one of enn's networks as one of ours."""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Output
from tests.golden.cases import Params


def of_output(out: Output) -> dict[str, jax.Array]:
  """What enn calls the parts of an output."""
  # No prior is None here, and zeros in enn.
  prior = jnp.zeros_like(out.train) if out.prior is None else out.prior
  return {
      'train': out.train,
      'prior': prior,
      'preds': out.preds,
      'array': out.preds,
  }


@dataclasses.dataclass(frozen=True)
class Converted:
  """One of enn's networks as one of ours.

  Attributes:
    network: the module.
    convert: turns Haiku parameters, or their gradients, into our `params`.
    variables: `params` converted, and `frozen`.
    x: inputs.
    draws: what enn drew at each index, where its index is a key.
    recorded: the parts of an output by the names that they are recorded with.
    trained: the entries of our gradients that enn has; all by default.
  """

  network: nn.Module
  convert: Callable[[Params], Any]
  variables: dict[str, Any]
  x: Any
  draws: list[np.ndarray] | None = None
  recorded: Callable[[Output], dict[str, Any]] = of_output
  trained: Callable[[Any], Any] = lambda gradients: gradients

  def apply(self, params: Any, index: Any) -> Output:
    """The output at one index, ours."""
    variables = {**self.variables, 'params': params}
    out = self.network.apply(variables, self.x, index)
    return out if isinstance(out, Output) else Output(out)

  def index(self, z: np.ndarray) -> Any:
    """One or many of enn's indices as ours."""
    if self.draws is not None:
      return [jnp.asarray(draw) for draw in self.draws]
    if not hasattr(self.network, 'indexer') or not self.network.indexer.size:
      return jnp.asarray(z)
    if np.issubdtype(z.dtype, np.unsignedinteger):  # a key that is ignored
      z = np.zeros(z.shape[:-1], np.int32)
    return jax.nn.one_hot(z, self.network.indexer.size)
