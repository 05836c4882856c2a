"""A last layer that is linear in the index: an ensemble without members."""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax

from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_finite, check_positive
from flax_enn.indexers import ScaledGaussianIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_index
from flax_enn.networks.features import run_features
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import Dtype, IndexContract


class LinearEnsemble(nn.Module):
  """`base(x) + (A z)' phi(x) + prior_scale · (P z)' phi(x)`, z ~ N(0, I / D).

  The columns of A are the members, and the index weighs them: the last layer's
  weights are Gaussian with covariance A A' / D. With `target_noise` or
  `bootstrap` in the objective each column learns from noise of its own, and
  that covariance comes close to the posterior of linear regression. P is drawn
  once and never trained.

  Use: exploration in bandits and reinforcement learning, where a linear model
    of the index is enough and has to be cheap.
  Cost: F·C products for an index and its share of a batched matrix product;
    2 F·C·D parameters, half of them frozen.
  Config: dict(name='linear_ensemble', features=('hidden_1',), index_dim=10,
    base=dict(name='mlp', hiddens=(50, 50)))
  Source: Li et al. (HyperAgent), arXiv:2402.10228, section 3; Li et al.
    (Ensemble++), arXiv:2407.13195.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`.
    features: names of the base's features that make up phi(x), flattened and
      concatenated in this order.
    index_dim: D of the index.
    prior_scale: factor on the frozen part; 0 leaves it out.
    stop_gradient: whether the loss of what the index changes leaves the base's
      features alone.
    dtype: of the computation; parameters and results are float32.
  """

  base: nn.Module
  features: Sequence[str]
  index_dim: int = 10
  prior_scale: float = 1.0
  stop_gradient: bool = True
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'index_dim')
    check_finite(self, 'prior_scale')

  @property
  def indexer(self) -> ScaledGaussianIndexer:
    return ScaledGaussianIndexer(self.index_dim)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index `[D]`."""
    check_index(index, (self.index_dim,), 'LinearEnsemble (index_dim)')
    logits, phi = run_features(
        self.base,
        x,
        self.features,
        'LinearEnsemble',
        train=train,
        stop_gradient=self.stop_gradient,
    )
    classes = logits.shape[-1]
    members = IndexContract(classes, self.dtype, name='members')
    out = logits + promote_to_float32(members(phi, index))
    if not self.prior_scale:
      return Output(out, base=logits)
    prior = IndexContract(classes, self.dtype, parent=None)
    prior = promote_to_float32(Frozen(prior, name='prior')(phi, index))
    return Output(out, self.prior_scale * prior, base=logits)


def example() -> Example:
  """A tiny linear ensemble, for the tests of the laws."""
  base = MLP(hiddens=(6,), classes=3)
  net = LinearEnsemble(base, ('inputs', 'hidden_0'), index_dim=4)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('base',))
