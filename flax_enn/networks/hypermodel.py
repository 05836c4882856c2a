"""Hypermodels: the index generates the parameters of a base network."""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import GaussianIndexer, ScaledGaussianIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.checks import check_index
from flax_enn.networks.features import run_base
from flax_enn.networks.layers import fan_in_init

# Where kernels are scaled: standard deviation of what the index adds at first,
# to a mean whose kernels are of order 1.
_SPREAD = 0.1
# Where not. Truncated, and rescaled to the variance that they name, as in enn.
_directions_init = nn.initializers.variance_scaling(
    1.0, 'fan_avg', 'truncated_normal'
)
_mean_init = nn.initializers.variance_scaling(1.0, 'fan_in', 'truncated_normal')


class Hypermodel(nn.Module):
  """`base(x; theta(z)) / temperature`, `theta(z) = mean + directions · t(z)`.

  Dwaracherla et al., "Hypermodels for Exploration", arXiv:2006.07464. The torso
  t is a perceptron of the index without an activation at its end (as in enn),
  the index itself where there are no `hiddens`: then theta is Gaussian.

  What a loss needs of it: `params['mean']`, a tree like the parameters of the
  base, and `params['directions']`, the same tree with an axis of t's outputs (D
  where there are no `hiddens`) in front of every leaf; at each index
  `extra['generated']`, theta(z) as it is emitted, and `extra['parameters']`,
  what the base ran with: the same, or with scaled kernels.

  Use: a distribution over all weights of a small base, with few dimensions.
  Cost: a forward of the base for every index, and D (or the torso's width)
    times its parameters.
  Config: dict(name='hypermodel', index_dim=5, base=dict(name='mlp',
    hiddens=(50, 50)))
  Source: arXiv:2006.07464, section 3; enn `networks/hypermodels.py`.

  Attributes:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`, whose only
      variables are its parameters; it is run on theta and has none of its own.
    index_dim: D of the index z ~ N(0, I).
    index_scale: where given, z ~ N(0, index_scale^2 / D I) instead.
    hiddens: widths of the torso.
    scale_kernels: whether kernels are divided by the root of their fan in, so
      that what is generated has a variance of order 1 in every entry, and at
      the mean the base starts as it does by itself. Else it starts as in enn,
      with a variance near one over the number of entries of each leaf; if that
      were divided too, next to no signal would reach the last layer. At one
      learning rate scaled kernels learn more slowly, the more inputs there are.
    small_start: whether it starts so where kernels are scaled too, as enn's do.
    temperature: divides the output.
  """

  base: nn.Module
  index_dim: int
  index_scale: float | None = None
  hiddens: Sequence[int] = ()
  scale_kernels: bool = True
  small_start: bool = False
  temperature: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'index_dim', 'index_scale', 'hiddens', 'temperature')

  @property
  def indexer(self) -> GaussianIndexer | ScaledGaussianIndexer:
    if self.index_scale is None:
      return GaussianIndexer(self.index_dim)
    return ScaledGaussianIndexer(self.index_dim, self.index_scale)

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index `[D]`."""
    check_index(index, (self.index_dim,), 'Hypermodel (index_dim)')
    x = sharding.constrain(x, 'batch')
    torso = index
    for i, size in enumerate(self.hiddens):
      torso = nn.relu(torso) if i else torso
      dense = nn.Dense(size, kernel_init=fan_in_init, name=f'torso_{i}')
      torso = dense(torso)
    shapes = parameter_shapes(self.base, x)
    init_mean, init_directions = _init_mean, _init_directions
    if self.scale_kernels and not self.small_start:
      init_mean, init_directions = self._init_scaled_mean(x), _init_spread
    mean = self.param('mean', init_mean, shapes)
    directions = self.param(
        'directions', init_directions, shapes, torso.shape[0]
    )
    generated = jax.tree.map(
        lambda m, d: m + jnp.tensordot(torso, d, 1), mean, directions
    )
    parameters = generated
    if self.scale_kernels:
      parameters = jax.tree.map(_scaled, generated)
    out = run_on(self, parameters, x, train=train) / self.temperature
    extra = {'generated': generated, 'parameters': parameters}
    return Output(out, extra=extra)

  def _init_scaled_mean(self, x: Any) -> Any:
    net = self.base.clone(parent=None, name=None)

    def init(key: jax.Array, shapes: Any) -> Any:
      del shapes
      params = nn.unbox(net.init(key, x))['params']
      return jax.tree.map(lambda p: p * _root_of_fan_in(p), params)

    return init


def parameter_shapes(base: nn.Module, x: Any) -> Any:
  """The tree of a backbone's parameters, abstract: nothing is computed.

  Raises:
    ValueError: the backbone has variables of other collections.
  """
  net = base.clone(parent=None, name=None)
  variables = nn.unbox(jax.eval_shape(net.init, jax.random.key(0), x))
  if others := sorted(set(variables) - {'params'}):
    raise ValueError(
        f'the base {type(base).__name__} has variables in {others} beside its'
        ' parameters; a base whose parameters depend on the index has none:'
        ' take one without batch norm and without frozen parts'
    )
  return variables['params']


def run_on(owner: Any, params: Any, x: Any, *, train: bool) -> jax.Array:
  """The logits `[B, C]` of a backbone run on given parameters, float32.

  Args:
    owner: the module that calls this; its field `base` is the backbone.
    params: a tree of the shapes of `parameter_shapes`.
    x: inputs.
    train: as in every network.
  """
  base = owner.base.clone(parent=None, name=None)
  streams = ['dropout'] if owner.has_rng('dropout') else []
  rngs = {name: owner.make_rng(name) for name in streams}

  def run(base: nn.Module) -> jax.Array:
    return run_base(base, x, train=train)[0]

  logits = nn.apply(run, base)({'params': params}, rngs=rngs)
  return sharding.constrain(promote_to_float32(logits), 'batch')


def _init_mean(key: jax.Array, shapes: Any) -> Any:
  """Entries of variance one over the number of a leaf's entries."""

  def init(key: jax.Array, leaf: Any) -> jax.Array:
    return _mean_init(key, (leaf.size, 1)).reshape(leaf.shape)

  return _init_leaves(key, shapes, init)


def _init_directions(key: jax.Array, shapes: Any, dim: int) -> Any:
  """For every leaf the kernel `[dim, size]` of a dense layer."""

  def init(key: jax.Array, leaf: Any) -> jax.Array:
    return _directions_init(key, (dim, leaf.size)).reshape(dim, *leaf.shape)

  return _init_leaves(key, shapes, init)


def _init_spread(key: jax.Array, shapes: Any, dim: int) -> Any:
  """The same where kernels are scaled, whatever the size of a leaf."""

  def init(key: jax.Array, leaf: Any) -> jax.Array:
    spread = _SPREAD / math.sqrt(dim)
    return spread * jax.random.normal(key, (dim, *leaf.shape))

  return _init_leaves(key, shapes, init)


def _init_leaves(key: jax.Array, shapes: Any, init: Any) -> Any:
  """Draws each leaf from a key of its own."""
  leaves, treedef = jax.tree.flatten(shapes)
  keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
  return jax.tree.unflatten(treedef, map(init, keys, leaves))


def _scaled(leaf: jax.Array) -> jax.Array:
  return leaf / _root_of_fan_in(leaf)


def _root_of_fan_in(leaf: jax.Array) -> float:
  """Of a kernel; 1 for a bias, which is not scaled."""
  return math.sqrt(math.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 1.0


def example() -> Example:
  """A tiny hypermodel, for the tests of the laws."""
  net = Hypermodel(MLP(hiddens=(6,), classes=3), index_dim=4, hiddens=(5,))
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x)
