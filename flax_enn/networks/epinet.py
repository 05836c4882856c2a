"""The epinet: a small network of the index beside a conventional base.

Osband et al., "Epistemic Neural Networks" (arXiv:2107.08924), section 3. The
ImageNet instance of enn: `enn/checkpoints/imagenet.py`.
"""

from collections.abc import Sequence
from typing import Any

from flax import linen as nn
import jax

from flax_enn.core import Example, Index, Output
from flax_enn.field_checks import check_finite, check_positive
from flax_enn.indexers import GaussianIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_index
from flax_enn.networks.features import run_features
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import Dtype, ProjectedMLP


class Epinet(nn.Module):
  """`base_scale · base(x) + head(phi(x), z) + prior_scale · prior(phi(x), z)`.

  The prior is a frozen network of the head's form (the matched prior). Priors
  of the input are added by `WithPrior`.

  Use: the default: joint predictions for any base, trained or not, at the cost
    of a small head.
  Cost: that of a small perceptron of the features for every index; no base.
  Config: dict(name='epinet', features=('inputs', 'hidden_1'), index_dim=10,
    base=dict(name='mlp', hiddens=(50, 50)))
  Source: arXiv:2107.08924, section 3; enn `networks/epinet`.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`; wrap it in
      `Frozen` where it is trained already.
    features: names of the base's features that make up phi(x), flattened and
      concatenated in this order.
    classes: number of outputs C; None for that of the base.
    index_dim: D of the index z ~ N(0, I).
    hiddens: widths of the head's hidden layers.
    prior_hiddens: widths of the prior's hidden layers; the head's by default.
    base_scale: factor on the base's output.
    prior_scale: factor on the matched prior; 0 leaves it out.
    stop_gradient: whether the head's loss leaves the base's features alone.
    dtype: of the head's computation; parameters and results are float32.
  """

  base: nn.Module
  features: Sequence[str]
  classes: int | None = None
  index_dim: int = 30
  hiddens: Sequence[int] = (50,)
  prior_hiddens: Sequence[int] | None = None
  base_scale: float = 1.0
  prior_scale: float = 1.0
  stop_gradient: bool = True
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'index_dim', 'hiddens', 'prior_hiddens')
    check_finite(self, 'base_scale', 'prior_scale')

  @property
  def indexer(self) -> GaussianIndexer:
    return GaussianIndexer(self.index_dim)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index `[D]`.

    Raises:
      ValueError: the index has another shape, the base has no such features or
        another number of outputs.
    """
    check_index(index, (self.index_dim,), 'Epinet (index_dim)')
    logits, phi = run_features(
        self.base,
        x,
        self.features,
        'Epinet',
        train=train,
        stop_gradient=self.stop_gradient,
    )
    classes = logits.shape[-1]
    if self.classes not in (None, classes):
      raise ValueError(
          f'the base of Epinet has {classes} outputs and the epinet'
          f' {self.classes} `classes`; leave the latter out'
      )

    def head(hiddens: Sequence[int], **options: Any) -> ProjectedMLP:
      return ProjectedMLP(hiddens, classes, dtype=self.dtype, **options)

    out = self.base_scale * logits + head(self.hiddens, name='head')(phi, index)
    if not self.prior_scale:
      return Output(out, base=logits)
    hiddens = self.prior_hiddens
    net = head(self.hiddens if hiddens is None else hiddens, parent=None)
    prior = self.prior_scale * Frozen(net, name='prior')(phi, index)
    return Output(out, prior, base=logits)


def example() -> Example:
  """A tiny epinet, for the tests of the laws."""
  net = Epinet(
      base=MLP(hiddens=(6, 5), classes=3),
      features=('inputs', 'hidden_1'),
      index_dim=4,
      hiddens=(7,),
  )
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x, index_free=('base',))
