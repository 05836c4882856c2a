"""enn's residual networks and conv priors, from Haiku's names to ours.

enn keeps a network as an ensemble of K, with K in front of the other axes, and
batch norm with axes of size 1 for the batch and the image. Of what batch norm
averages it keeps sums from zero (`hidden`, with the `counter` of their terms)
and means corrected for that start (`average`), with which it evaluates.
"""

from collections.abc import Mapping
import re
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import layout
from flax_enn.networks.backbones.resnet import BOTTLENECK, THIN, ResNet
from flax_enn.networks.priors.conv_prior import ConvPrior

# Module -> name -> array, or its shape and dtype.
Tree = Mapping[str, Mapping[str, Any]]

_PARTS = {
    'stem': 'initial_conv',
    'stem_norm': 'initial_batchnorm',
    'final_norm': 'final_batchnorm',
    'out': 'final_fc',
    'shortcut': 'conv_shortcut',
}
_LAST = 'prior/~/linear_0'
SEED = 23  # of enn's conv priors


class Place(NamedTuple):
  """Where Haiku has a variable.

  Attributes:
    collection: `params` or `state`.
    module: such as `res_net/~/res_block_v2_3/~/conv1`.
    name: such as `w`; `average` of what has three of them.
    shape: there, without the axis K.
    own: shape here.
  """

  collection: str
  module: str
  name: str
  shape: tuple[int, ...]
  own: tuple[int, ...]


def places(network: ResNet) -> dict[str, Place]:
  """Path of each variable of a network -> where Haiku has it.

  >>> places(ResNet(10, 18))['params/block_1/conv_0/kernel'][:3]
  ('params', 'res_net/~/res_block_v1_1/~/conv0', 'w')
  """
  variables = jax.eval_shape(
      lambda: network.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
  )
  leaves = layout.flatten_with_names(variables)
  version = 1 if 'params/stem_norm/scale' in leaves else 2
  return {path: _place(path, v.shape, version) for path, v in leaves.items()}


def _place(path: str, own: tuple[int, ...], version: int) -> Place:
  collection, *parts, leaf = path.split('/')
  module = '/~/'.join(['res_net', *(_module(part, version) for part in parts)])
  if 'norm' not in parts[-1]:
    name = {'kernel': 'w', 'bias': 'b'}[leaf]
    return Place('params', module, name, own, own)
  shape = (1, 1, 1, *own)
  if collection == 'batch_stats':
    return Place('state', f'{module}/~/{leaf}_ema', 'average', shape, own)
  name = {'scale': 'scale', 'bias': 'offset'}[leaf]
  return Place('params', module, name, shape, own)


def _module(part: str, version: int) -> str:
  """`block_3` -> `res_block_v2_3`."""
  if part in _PARTS:
    return _PARTS[part]
  kind, number = part.split('_')
  if kind == 'block':  # Haiku numbers from the second on
    return f'res_block_v{version}' + (f'_{number}' if number != '0' else '')
  return {'conv': 'conv', 'norm': 'batchnorm_'}[kind] + number


def specs(network: ResNet, members: int = 1) -> dict[str, Tree]:
  """Shapes and dtypes of all that enn saves of an ensemble of a network.

  Returns:
    `{'params': …, 'state': …}`.
  """
  trees: dict[str, Any] = {'params': {}, 'state': {}}
  for place in places(network).values():
    leaf = jax.ShapeDtypeStruct((members, *place.shape), np.float32)
    names = {place.name: leaf}
    if place.collection == 'state':
      counter = jax.ShapeDtypeStruct((members,), np.int32)
      names = {'average': leaf, 'hidden': leaf, 'counter': counter}
    trees[place.collection].setdefault(place.module, {}).update(names)
  return trees


def params(network: ResNet, found: Tree) -> Any:
  """Parameters of K networks, or their gradients, with K as first axis."""
  return _converted(network, 'params', found)


def statistics(network: ResNet, found: Tree, of: str = 'average') -> Any:
  """Running statistics of K networks: enn's `average`, or its `hidden`."""
  return _converted(network, 'batch_stats', found, of)


def _converted(
    network: ResNet, collection: str, found: Tree, name: str | None = None
) -> Any:
  tree = {}
  for path, place in places(network).items():
    of, _, path = path.partition('/')
    if of == collection:
      array = found[place.module][name or place.name]
      tree[path] = array.reshape(len(array), *place.own)
  return traverse_util.unflatten_dict(tree, sep='/')


def depth_of(found: Tree) -> int:
  """Which residual network has these parameters.

  Raises:
    ValueError: none of enn's.
  """
  pattern = r'res_net/~/res_block_v(\d)[^/]*'
  blocks = {m[0]: m[1] for k in found if (m := re.match(pattern, k))}
  for version, depths in (('1', THIN), ('2', BOTTLENECK)):
    for depth, groups in depths.items():
      if [*blocks.values()] == [version] * sum(groups):
        return depth
  raise ValueError(f'no residual network of enn has {len(blocks)} blocks')


def conv_prior_params(found: Tree) -> dict[str, Any]:
  """Parameters of a `ConvPrior`, from those of enn's ensemble of conv nets."""
  tree = {}
  for i, name in enumerate(_convolutions(len(found) - 1)):
    tree |= {f'kernel_{i}': found[name]['w'], f'bias_{i}': found[name]['b']}
  last = found[_LAST]
  return {**tree, 'kernel_out': last['w'], 'bias_out': last['b']}


def draw_conv_prior(
    prior: ConvPrior, x: Any, classes: int, size: int, *, legacy: bool = True
) -> dict[str, Any]:
  """Draws the parameters of a prior as enn does, which does not store them.

  enn draws them when it builds a network, from seed 23. JAX has changed its
  random numbers since the catalogue was made (`jax_threefry_partitionable`):
  the prior that is drawn today has nothing to do with the one that a network
  was trained with, and nothing says so.

  Args:
    prior: whose parameters.
    x: `[B, H, W, ch]` an image, for its shape.
    classes: C.
    size: D, how many networks.
    legacy: whether to draw as JAX did then, whatever it is set to now.
  """
  shapes = jax.eval_shape(
      lambda: prior.init(jax.random.key(0), x, classes, size)['params']
  )

  def member(key: jax.Array) -> dict[str, jax.Array]:
    # Haiku takes one key for each kernel, in this order, none for the biases.
    tree = {k: jnp.zeros(v.shape[1:], np.float32) for k, v in shapes.items()}
    layers = len(prior.channels)
    for name in [f'kernel_{i}' for i in range(layers)] + ['kernel_out']:
      key, own = jax.random.split(key)
      shape = shapes[name].shape[1:]
      draw = jax.random.truncated_normal(own, -2.0, 2.0, shape, np.float32)
      tree[name] = draw / np.sqrt(np.prod(shape[:-1]), dtype=np.float32)
    return tree

  with jax.threefry_partitionable(not legacy):
    # The first key of enn's sequence is for an index that nobody looks at.
    key, _ = jax.random.split(jax.random.key(SEED, impl='threefry2x32'))
    _, key = jax.random.split(key)
    return jax.jit(jax.vmap(member))(jax.random.split(key, size))


def _convolutions(number: int) -> list[str]:
  return ['prior_conv'] + [f'prior_conv_{i}' for i in range(1, number)]
