"""A conventional network as an epistemic one that ignores its index."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.features import run_base


class Deterministic(nn.Module):
  """`base(x)`: what an epinet is compared with, and warm-starts from.

  Use: a conventional network, as a base to train first and as the reference.
  Cost: none for another index; no parameters beside those of the base.
  Config: dict(name='deterministic', base=dict(name='mlp', hiddens=(50, 50)))
  Source: enn `networks/base.py`, networks that ignore their index.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`.
  """

  base: nn.Module

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(1)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]`, the same at every index."""
    del index
    x = sharding.constrain(x, 'base_batch')
    logits, _ = run_base(self.base, x, train=train)
    logits = sharding.constrain(promote_to_float32(logits), 'batch')
    return Output(logits, base=logits)


def example() -> Example:
  """A tiny network with batch norm, for the tests of the laws."""
  net = Deterministic(base=ConvNet(classes=3, channels=(2, 3), hidden=4))
  x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  return Example(net, x, index_free=('base',))
