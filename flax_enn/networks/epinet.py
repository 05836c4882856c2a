"""The epinet: a small network of the index beside a conventional base.

Osband et al., "Epistemic Neural Networks" (arXiv:2107.08924), section 3. The
ImageNet instance of enn: `enn/checkpoints/imagenet.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Index, Output
from flax_enn.indexers import GaussianIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import (
  Dtype,
  ProjectedMLP,
  at_least_float32,
  check_index,
)
from flax_enn.networks.priors.mlp_prior import MLPPrior


class Epinet(nn.Module):
  """`base_scale · base(x) + head(phi(x), z) + prior_scale · prior(phi(x), z)`.

  The prior is a frozen network of the head's form (the matched prior); further
  priors of the input may be added, each linear in the index.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`; wrap it in
      `Frozen` where it is trained already.
    classes: number of outputs C.
    features: names of the base's features that make up phi(x), flattened and
      concatenated in this order.
    index_dim: D of the index z ~ N(0, I).
    hiddens: widths of the head's hidden layers.
    prior_hiddens: widths of the prior's hidden layers; the head's by default.
    base_scale: factor on the base's output.
    prior_scale: factor on the matched prior; 0 leaves it out.
    priors: named prior networks `x -> [B, C, D]`, from `networks/priors`.
    stop_gradient: whether the head's loss leaves the base's features alone.
    dtype: of the head's computation; parameters and results are float32.
  """

  base: nn.Module
  classes: int
  features: Sequence[str]
  index_dim: int = 30
  hiddens: Sequence[int] = (50,)
  prior_hiddens: Sequence[int] | None = None
  base_scale: float = 1.0
  prior_scale: float = 1.0
  priors: Mapping[str, nn.Module] | None = None
  stop_gradient: bool = True
  dtype: Dtype = None

  @property
  def indexer(self) -> GaussianIndexer:
    return GaussianIndexer(self.index_dim)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index `[D]`; the base's own are in `extra`."""
    check_index(index, (self.index_dim,), 'Epinet (index_dim)')
    # The base is the same for all indices: spread over every device, its
    # features and logits then gathered to where the index-dependent work is.
    x = sharding.constrain(x, 'base_batch')
    logits, features = self.base(x, train=train)
    phi = self._phi(features)
    logits, phi = sharding.constrain((logits, phi), 'batch')
    logits = at_least_float32(logits)
    if logits.shape[-1] != self.classes:
      raise ValueError(
          f'the base of Epinet has {logits.shape[-1]} outputs and the epinet'
          f' {self.classes}; set config.network.classes and'
          ' config.network.base.classes to the same number'
      )

    head = self._head(self.hiddens, name='head')
    out = self.base_scale * logits + head(phi, index)
    return Output(out, self._prior(x, phi, index), {'base': logits})

  def _head(self, hiddens: Sequence[int], **options: Any) -> ProjectedMLP:
    return ProjectedMLP(hiddens, self.classes, dtype=self.dtype, **options)

  def _prior(self, x: Any, phi: jax.Array, index: Index) -> jax.Array | None:
    """The sum of all priors `[B, C]`, or None where there is none."""
    terms = []
    if self.prior_scale:
      hiddens = self.prior_hiddens
      hiddens = self.hiddens if hiddens is None else hiddens
      net = self._head(hiddens, parent=None)
      prior = Frozen(net, name='prior')(phi, index)
      terms.append(self.prior_scale * prior)
    for name, net in sorted((self.priors or {}).items()):
      basis = Frozen(net.clone(parent=None), name=f'prior_{name}')(x)
      basis = sharding.constrain(basis, 'batch')
      terms.append(basis @ index)
    return sum(terms[1:], terms[0]) if terms else None

  def _phi(self, features: Mapping[str, jax.Array]) -> jax.Array:
    """Flattens and concatenates the chosen features to `[B, F]`."""
    missing = [name for name in self.features if name not in features]
    if missing or not self.features:
      raise ValueError(
          f'features {list(self.features)} of Epinet: the base exposes'
          f' {sorted(features)}; set config.network.features to some of these'
      )
    parts = [features[name] for name in self.features]
    phi = jnp.concatenate([p.reshape(p.shape[0], -1) for p in parts], axis=-1)
    return jax.lax.stop_gradient(phi) if self.stop_gradient else phi


def example() -> tuple[Epinet, jax.Array]:
  """A tiny epinet and inputs, for the law tests."""
  net = Epinet(
      base=MLP(hiddens=(6, 5), classes=3),
      classes=3,
      features=('inputs', 'hidden_1'),
      index_dim=4,
      hiddens=(7,),
      priors={'inputs': MLPPrior(hiddens=(5,), classes=3, size=4, scale=0.5)},
  )
  return net, jax.random.normal(jax.random.key(0), (8, 4))
