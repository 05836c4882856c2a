"""Members that differ from one base by matrices of low rank."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_finite, check_positive
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.adapters import Layer, run_adapted
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_index
from flax_enn.networks.layers import fan_in_init, per_member


class LoraEnsemble(nn.Module):
  """K members whose kernels are `W + (scale / rank) A_k B_k`.

  B begins at zero: all members are the base at first, and A, which is random,
  leads each its own way.

  Use: an ensemble of fine-tunings of one large base, which is in memory once.
  Cost: a forward of the base for every index, from the first adapted layer on;
    K rank (inputs + outputs) parameters for each.
  Config: dict(name='lora_ensemble', size=8, layers=r'.*(query|value)',
    base=dict(name='bert', frozen=True))
  Source: Hu et al., arXiv:2106.09685, section 4.1; as an ensemble:
    arXiv:2310.00035, arXiv:2405.14438.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`; wrap it in
      `Frozen` where it is trained already. (Not with `remat`.)
    size: number of members K.
    rank: of the difference.
    scale: factor on the difference, times the rank.
    layers: regular expression of the names of the dense layers that differ; the
      name of one is its path in the base, joined by `_`.
  """

  base: nn.Module
  size: int
  rank: int = 8
  scale: float = 16.0
  layers: str = '.*'

  def __post_init__(self):
    super().__post_init__()
    check_finite(self, 'scale')
    check_positive(self, 'size', 'rank')

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(self.size)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the output `[B, C]` of the member that `index` `[K]` names."""
    check_index(index, (self.size,), 'LoraEnsemble (size)')
    differences = {}

    def adapter(name: str):
      differences[name] = LowRank(
          self.size, self.rank, self.scale, parent=self, name=f'lora_{name}'
      )
      return lambda layer, h: differences[name](layer, h, index)

    logits = run_adapted(
        self.base, x, adapter, (nn.Dense,), self.layers, train=train
    )
    return Output(promote_to_float32(logits))


class LowRank(nn.Module):
  """`layer(h) + (scale / rank) h A_k B_k`, for K members.

  The attributes are those of `LoraEnsemble`.
  """

  size: int
  rank: int
  scale: float

  @nn.compact
  def __call__(self, layer: Layer, h: jax.Array, index: Index) -> jax.Array:
    """Maps `[B, ..., F]` to what the layer gives, `[B, ..., H]`."""
    out = layer(h)
    a = self.param(
        'a', per_member(fan_in_init), (self.size, h.shape[-1], self.rank)
    )
    b = self.param(
        'b', nn.initializers.zeros, (self.size, self.rank, out.shape[-1])
    )
    a, b = (
        jnp.tensordot(index, factor, 1).astype(out.dtype) for factor in (a, b)
    )
    return out + self.scale / self.rank * (h.astype(out.dtype) @ a) @ b


def example() -> Example:
  """Tiny members of one base, for the tests of the laws."""
  base = MLP(hiddens=(6,), classes=3)
  net = LoraEnsemble(base, 8, rank=2, layers='layer_1')
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0',))
