"""Any network with its inputs centred and its outputs scaled."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import Example, Index, Indexer, Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble

# Added to every standard deviation: a feature that never changes stays at 0.
_LEAST = 1e-9


class Rescaled(nn.Module):
  """`scale · net((x - mean) / std, z)`, the prior of `net` scaled alike.

  (What belongs to the data, such as the mean of a training set, may as well be
  a preprocessing of theirs.)

  Use: a network made for inputs and outputs of order 1, where data are not.
  Cost: none.
  Config: dict(name='rescaled', mean=(0.5, 2.0), std=(0.1, 3.0), scale=10.0,
    net=dict(name='mlp_dropout', hiddens=(50, 50)))
  Source: enn `networks/utils.py`, `scale_enn_output` and `make_centered_enn`.

  Attributes:
    net: any epistemic network.
    mean: of the inputs, a number or one for each entry of their last axis.
    std: standard deviation of the inputs, likewise.
    scale: factor on the outputs.
  """

  net: nn.Module
  mean: float | Sequence[float] = 0.0
  std: float | Sequence[float] = 1.0
  scale: float = 1.0

  @property
  def indexer(self) -> Indexer:
    return self.net.indexer

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index."""
    if (self.mean, self.std) != (0.0, 1.0):
      mean, std = jnp.asarray(self.mean), jnp.asarray(self.std) + _LEAST
      x = jax.tree.map(lambda leaf: (leaf - mean) / std, x)
    out = self.net(x, index, train=train)
    parts = {'train': out.train, 'prior': out.prior, 'base': out.base}
    return out.replace(**jax.tree.map(lambda part: part * self.scale, parts))


def example() -> Example:
  """A tiny ensemble on shifted inputs, for the tests of the laws."""
  x = 2 + 3 * jax.random.normal(jax.random.key(0), (8, 4))
  net = Ensemble(MLP(hiddens=(6,), classes=3), size=8)
  net = Rescaled(net, mean=(2.0, 2.0, 2.0, 1.0), std=3.0, scale=0.5)
  return Example(net, x, index_free=('member',))
