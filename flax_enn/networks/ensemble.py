"""Ensembles: K independent members, chosen by a one-hot index."""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Index, Output
from flax_enn.indexers import EnsembleIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import at_least_float32, check_index


class Ensemble(nn.Module):
  """K members that run once each, whatever the number of indices.

  All members see every batch, so that batch statistics do not depend on the
  index. With a prior this is "ensemble+": each member has a random network of
  its own added that is never trained (Osband et al., "Randomized Prior
  Functions for Deep Reinforcement Learning", arXiv:1806.03335).

  Attributes:
    member: a backbone, `(x, *, train) -> (logits [B, C], features)`.
    size: number of members K.
    prior: a backbone for each member's prior, or None.
    prior_scale: factor on the prior.
  """

  member: nn.Module
  size: int
  prior: nn.Module | None = None
  prior_scale: float = 1.0

  @property
  def indexer(self) -> EnsembleIndexer:
    return EnsembleIndexer(self.size)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes the output `[B, C]` of the member that `index` `[K]` names."""
    check_index(index, (self.size,), 'Ensemble (size)')
    out = _choose(self._members(self.member, x, train), index)
    if self.prior is None:
      return Output(out)
    frozen = Frozen(self.prior.clone(parent=None), name='priors')
    x = sharding.constrain(x, 'base_batch')
    basis = sharding.constrain(self._members(frozen, x, False), 'batch')
    return Output(out, self.prior_scale * _choose(basis, index))

  def _members(self, net: nn.Module, x: Any, train: bool) -> jax.Array:
    """Runs K copies of `net` on `x`; `[B, C, K]`, float32."""
    run = nn.vmap(
        lambda net, x: at_least_float32(net(x, train=train)[0]),
        in_axes=None,
        out_axes=-1,
        axis_size=self.size,
        variable_axes={'params': 0, 'batch_stats': 0, 'frozen': 0},
        split_rngs={'params': True, 'frozen': True},
        metadata_params={nn.PARTITION_NAME: sharding.MEMBER},
    )
    return run(net, x)


def _choose(basis: jax.Array, index: Index) -> jax.Array:
  """Contracts `[B, C, K]` with `[K]`; unchosen members cannot spread NaN."""
  # Selecting by the index first would make an [N, B, C, K] array of N indices.
  finite = jnp.isfinite(basis)
  chosen = jnp.where(finite, basis, 0) @ index
  broken = (~finite).astype(chosen.dtype) @ jnp.abs(index)
  return jnp.where(broken > 0, jnp.nan, chosen)


def example() -> tuple[Ensemble, jax.Array]:
  """A tiny ensemble with priors and batch norm, for the law tests."""
  net = ConvNet(classes=3, channels=(2, 3), hidden=4)
  x = jax.random.normal(jax.random.key(0), (8, 4, 4, 1))
  return Ensemble(member=net, size=8, prior=net.clone(), prior_scale=0.5), x
