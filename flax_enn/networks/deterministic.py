"""A conventional network as an epistemic one that ignores its index."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Index, Output
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.layers import at_least_float32


class Deterministic(nn.Module):
  """The base alone: what an epinet is compared with, and warm-starts from.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`.
  """

  base: nn.Module

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]`, the same at every index."""
    del index
    x = sharding.constrain(x, 'base_batch')
    logits, _ = self.base(x, train=train)
    logits = sharding.constrain(at_least_float32(logits), 'batch')
    return Output(logits, extra={'base': logits})


def example() -> tuple[Deterministic, jax.Array]:
  """A tiny network with batch norm, for the law tests."""
  net = Deterministic(base=ConvNet(classes=3, channels=(2, 3), hidden=4))
  return net, jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
