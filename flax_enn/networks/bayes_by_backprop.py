"""Bayes by backprop: every weight of a base is Gaussian, by itself."""

import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Example, Index, Output
from flax_enn.field_checks import check_positive
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.hypermodel import parameter_shapes, run_on
from flax_enn.networks.key_index import draw


class BayesByBackprop(nn.Module):
  """`base(x; theta(z)) / temperature`, `theta = mean + softplus(rho) · noise`.

  Blundell et al., "Weight Uncertainty in Neural Networks", arXiv:1505.05424.
  The index is a PRNG key. The noise ~ N(0, I) of each leaf of theta is drawn
  from the key folded with the leaf's number, where that leaf is used: no array
  of all parameters exists, at one index or at many. Instead of a key the index
  may be a list of the noise, one array for each leaf of theta in the order of
  `jax.tree.leaves`.

  What a loss needs of it: `params['mean']` and `params['rho']`, two trees like
  the parameters of the base, and at each index `extra['generated']`, theta(z).
  The KL term of an ELBO takes the place of weight decay, which would pull rho
  to 0, a deviation of 0.7.

  Use: a posterior over all weights at twice the parameters, with an ELBO.
  Cost: a forward of the base and a draw of all its weights for every index;
    twice its parameters.
  Config: dict(name='bayes_by_backprop', base=dict(name='mlp',
    hiddens=(50, 50)))
  Source: arXiv:1505.05424, section 3.2; enn `networks/bbb.py`.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`, whose only
      variables are its parameters; it is run on theta and has none of its own.
      Its initial parameters are those of `mean`.
    init_scale: initial standard deviation of every weight.
    temperature: divides the output.
  """

  base: nn.Module
  init_scale: float = 0.01
  temperature: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'init_scale', 'temperature')

  @property
  def indexer(self) -> PrngIndexer:
    return PrngIndexer()

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index, a key `[]`."""
    x = sharding.constrain(x, 'batch')
    shapes = parameter_shapes(self.base, x)
    means = self.param('mean', self._init_mean, x)
    rhos = self.param('rho', self._init_rho, shapes)
    leaves, treedef = jax.tree.flatten(means)
    generated = []
    for i, (mean, rho) in enumerate(zip(leaves, jax.tree.leaves(rhos))):
      noise = draw(index, i, lambda k, s=mean.shape: jax.random.normal(k, s))
      generated.append(mean + nn.softplus(rho) * noise)
    theta = jax.tree.unflatten(treedef, generated)
    out = run_on(self, theta, x, train=train) / self.temperature
    return Output(out, extra={'generated': theta})

  def _init_mean(self, key: jax.Array, x: Any) -> Any:
    net = self.base.clone(parent=None, name=None)
    return nn.unbox(net.init(key, x))['params']

  def _init_rho(self, key: jax.Array, shapes: Any) -> Any:
    del key
    rho = math.log(math.expm1(self.init_scale))
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, rho), shapes)


def example() -> Example:
  """A tiny Bayesian perceptron, for the tests of the laws."""
  net = BayesByBackprop(MLP(hiddens=(), classes=3))
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x)
