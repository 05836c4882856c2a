"""An epistemic head on what a base computes."""

from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.core import Example, Index, Indexer, Output
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.features import run_base


class Combined(nn.Module):
  """`head(phi(x), z)`: any epistemic network on the features of a base.

  A backbone as base runs once for any number of indices, and the index is
  that of the head. Where the base is an epistemic network itself (one with
  dropout, say), the index is a PRNG key, from which an index of each is drawn.

  Use: a head other than an epinet on a large base: last layers as an ensemble,
    dropout behind a language model.
  Cost: that of the head for every index; of the base too where it has an index.
  Config: dict(name='combined', base=dict(name='mlp', hiddens=(50,)),
    feature='hidden_0', head=dict(name='mlp_dropout', hiddens=(50,)))
  Source: enn `networks/combiners.py`, `combine_naive_enn`; its
    `make_optimized_forward` is `over_index` of this.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits, features)`, or an epistemic
      network; wrap it in `Frozen` where it is trained already.
    head: an epistemic network of `[B, ...]` features.
    feature: name of the backbone's feature, or of an entry of the network's
      `extra`, that the head reads; None for the logits.
    stop_gradient: whether the head's loss leaves the base alone.
  """

  base: nn.Module
  head: nn.Module
  feature: str | None = None
  stop_gradient: bool = False

  @property
  def indexer(self) -> Indexer | PrngIndexer:
    return PrngIndexer() if self._base_indexer else self.head.indexer

  @property
  def _base_indexer(self) -> Indexer | None:
    return getattr(self.base, 'indexer', None)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index.

    Raises:
      ValueError: the base has no such feature.
    """
    base_indexer = self._base_indexer
    if base_indexer is None:
      x = sharding.constrain(x, 'base_batch')
      phi, features = run_base(self.base, x, train=train)
    else:
      keys = [jax.random.fold_in(index, part) for part in range(2)]
      at, index = (
          indexer.sample(key, 1)[0]
          for indexer, key in zip((base_indexer, self.head.indexer), keys)
      )
      out = self.base(x, at, train=train)
      phi, features = out.preds, out.extra
    if self.feature is not None:
      if self.feature not in features:
        raise ValueError(
            f'the base of Combined has no feature {self.feature!r}; it has'
            f' {sorted(features)}: set `feature` to one of these, or to None'
            ' for its logits'
        )
      phi = features[self.feature]
    phi = sharding.constrain(phi, 'batch')
    phi = jax.lax.stop_gradient(phi) if self.stop_gradient else phi
    return self.head(phi, index, train=train)


def example() -> Example:
  """A tiny ensemble of heads on a base, for the tests of the laws."""
  net = Combined(
      base=MLP(hiddens=(), classes=5),
      head=Ensemble(MLP(hiddens=(), classes=3), size=8),
  )
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('base', 'member'))
