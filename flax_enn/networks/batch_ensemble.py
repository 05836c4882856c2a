"""BatchEnsemble: members that differ by a matrix of rank one in each layer."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.adapters import Layer, run_adapted
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_index


class BatchEnsemble(nn.Module):
  """K members whose kernels are `W ∘ r_k s_k'`, with W shared by all.

  Every dense layer and convolution of the base computes
  `s_k ∘ (W (r_k ∘ h) + b) + b_k`. The mean index gives the member of the mean
  factors. On a mesh indices are split, and the few factors are on every device.

  Use: an ensemble for hardly more parameters than one network has.
  Cost: a forward of the base for every index; K (inputs + 2 outputs) parameters
    for each layer.
  Config: dict(name='batch_ensemble', size=8, base=dict(name='mlp',
    hiddens=(50, 50)))
  Source: Wen et al., arXiv:2002.06715, section 3.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`. Batch
      statistics behind an adapted layer would depend on the index: train such
      a base with `layers` that are behind them, or `Frozen`. (Not with
      `remat`.)
    size: number of members K.
    layers: regular expression of the names of the layers that differ; the name
      of one is its path in the base, joined by `_`.
  """

  base: nn.Module
  size: int
  layers: str = '.*'

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'size')

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(self.size)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the output `[B, C]` of the member that `index` `[K]` names."""
    check_index(index, (self.size,), 'BatchEnsemble (size)')
    factors = {}

    def adapter(name: str):
      factors[name] = RankOne(self.size, parent=self, name=f'rank_one_{name}')
      return lambda layer, h: factors[name](layer, h, index)

    logits = run_adapted(
        self.base, x, adapter, (nn.Dense, nn.Conv), self.layers, train=train
    )
    return Output(promote_to_float32(logits))


class RankOne(nn.Module):
  """`s_k ∘ layer(r_k ∘ h) + b_k`: the factors of K members at one layer.

  Factors begin at 1 or -1 at random, so that the members differ.

  Attributes:
    size: number of members K.
  """

  size: int

  @nn.compact
  def __call__(self, layer: Layer, h: jax.Array, index: Index) -> jax.Array:
    """Maps `[B, ..., F]` to what the layer gives, `[B, ..., H]`."""

    def factor(name: str, init: Any, like: jax.Array) -> jax.Array:
      values = self.param(name, init, (self.size, like.shape[-1]))
      return (index @ values).astype(like.dtype)

    out = layer(h * factor('r', _signs, h))
    bias = factor('bias', nn.initializers.zeros, out)
    return out * factor('s', _signs, out) + bias


def _signs(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  return jax.random.rademacher(key, shape, 'float32')


def example() -> Example:
  """Tiny members that share their first layer, for the tests of the laws."""
  net = BatchEnsemble(MLP(hiddens=(6,), classes=3), 8, layers='layer_1')
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('layer_0',))
