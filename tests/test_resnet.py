"""Residual bases and batch norm over virtual batches."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import BatchNorm
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.optimizer import create_optimizer
from flax_enn.training.state import abstract_state, create_train_state
from tests import long, slow, tiny
from tests.test_laws import a_batch

TINY = {
    'thin': ResNet(classes=3, depth=18, blocks=(1, 1), channels=(4, 6)),
    'bottleneck': ResNet(classes=3, depth=50, blocks=(1, 2), channels=(8, 8)),
    'post': ResNet(
        classes=3, blocks=(1, 2), channels=(8, 8), preactivation=False
    ),
}


def images(*shape):
  return jax.random.normal(jax.random.key(0), shape)


def count(tree):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes_of(network, x, *args):
  return jax.eval_shape(network.init, jax.random.key(0), x, *args)


def thin_parameters(blocks):
  """Kernels and two numbers for each channel that is normed, by hand."""
  stem = 27 * 16 + 2 * 16
  first = [9 * c * c // 2 + 9 * c * c + 4 * c for c in (32, 64)]
  others = [18 * c * c + 4 * c for c in (16, 32, 64)]
  inside = [blocks, blocks - 1, blocks - 1]
  out = 64 * 10 + 10
  return stem + sum(first) + sum(map(math.prod, zip(inside, others))) + out


@pytest.mark.parametrize(
    'depth, classes, side, parameters, blocks, features',
    [
        (18, 10, 32, 172_506, 6, 64),
        (32, 10, 32, thin_parameters(5), 15, 64),
        slow(110, 10, 32, thin_parameters(18), 54, 64),
        (50, 1000, 224, 25_549_352, 16, 2048),
        slow(101, 1000, 224, 44_541_480, 33, 2048),
        slow(152, 1000, 224, 60_185_128, 50, 2048),
        (200, 1000, 224, 64_666_152, 66, 2048),
    ],
)
def test_sizes(depth, classes, side, parameters, blocks, features):
  net = ResNet(classes=classes, depth=depth)
  x = jnp.zeros((1, side, side, 3))
  variables = shapes_of(net, x)
  assert count(variables['params']) == parameters
  logits, exposed = jax.eval_shape(net.apply, variables, x)
  assert logits.shape == (1, classes)
  assert exposed['pooled'].shape == (1, features)
  assert set(exposed) == {
      'inputs', 'pooled', 'logits', *(f'block_{i}' for i in range(blocks))
  }  # fmt: skip
  last = exposed[f'block_{blocks - 1}'].shape
  assert last == (1, *((8, 8) if side == 32 else (7, 7)), features)


@pytest.mark.parametrize(
    'depth, classes, dim, conv, head, prior',
    [
        (50, 1000, 30, {}, 1_633_950, 6_179_880),
        (
            18,
            10,
            20,
            {'channels': (4, 8, 4), 'kernels': (5, 5, 5), 'strides': (2, 2, 2)},
            14_450,
            51_320,
        ),
    ],
    ids=['imagenet', 'cifar10'],
)
def test_epinets_are_as_large_as_those_of_enn(
    depth, classes, dim, conv, head, prior
):
  epinet = Epinet(
      base=Frozen(ResNet(classes=classes, depth=depth)),
      features=('pooled',),
      index_dim=dim,
  )
  network = WithPrior(epinet, {'conv': ConvPrior(**conv)})
  side = 224 if depth == 50 else 32
  variables = shapes_of(
      network, jnp.zeros((1, side, side, 3)), jnp.zeros(dim)
  )
  assert count(variables['params']) == head
  assert count(variables['frozen']['prior']) == head
  assert count(variables['frozen']['prior_conv']) == prior


@pytest.mark.parametrize('name', TINY)
def test_half_precision_within_gives_float32(name):
  x = images(4, 16, 16, 3)
  net = TINY[name]
  variables = jax.jit(net.init)(jax.random.key(1), x)
  half = net.clone(dtype=jnp.bfloat16)
  assert all(
      leaf.dtype == jnp.float32
      for leaf in jax.tree.leaves(shapes_of(half, x))
  )

  def train(net):
    apply = functools.partial(net.apply, train=True, mutable=['batch_stats'])
    return jax.jit(apply)(variables, x)

  (logits, features), updated = train(half)
  assert features['block_0'].dtype == jnp.bfloat16
  assert logits.dtype == features['pooled'].dtype == jnp.float32
  assert all(
      leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(updated)
  )
  (_, full), _ = train(net)
  error = np.abs(features['pooled'] - full['pooled'])
  assert 0 < error.max() < 0.1


def test_the_last_layer_starts_at_zero():
  x = images(2, 16, 16, 3)
  net = TINY['bottleneck']
  (logits, features), _ = jax.jit(net.init_with_output)(jax.random.key(1), x)
  assert not np.any(logits)
  assert np.any(features['pooled'])


@pytest.mark.parametrize(
    'fields, says',
    [
        ({'depth': 34}, 'depth of ResNet is 34'),
        ({'blocks': (1, 2), 'channels': (8, 8, 8)}, '2 groups by `blocks`'),
    ],
)
def test_unknown_sizes(fields, says):
  with pytest.raises(ValueError, match=says):
    shapes_of(ResNet(classes=3, **fields), jnp.zeros((1, 16, 16, 3)))


def normed(group, x, **options):
  """What training makes of x, and the running statistics after it."""
  norm = BatchNorm(group=group, **options)
  variables = norm.init(jax.random.key(0), x, train=False)
  params = {'scale': jnp.arange(1.0, 4), 'bias': jnp.arange(3.0)}
  variables = {**variables, 'params': params}
  return norm.apply(variables, x, train=True, mutable=['batch_stats'])


def test_batch_norm_is_that_of_flax():
  x = 2 + 3 * images(8, 4, 5, 3)
  got, updated = normed(None, x, momentum=0.8)
  reference = nn.BatchNorm(use_running_average=False, momentum=0.8)
  variables = reference.init(jax.random.key(0), x)
  params = {'scale': jnp.arange(1.0, 4), 'bias': jnp.arange(3.0)}
  expected, statistics = reference.apply(
      {**variables, 'params': params}, x, mutable=['batch_stats']
  )
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
  for name, value in statistics['batch_stats'].items():
    np.testing.assert_allclose(
        updated['batch_stats'][name], value, rtol=1e-5, atol=1e-6
    )
  # In evaluation too, with a checkpoint's variables of the same names.
  at_rest = nn.BatchNorm(use_running_average=True)
  variables = {'params': params, **updated}
  np.testing.assert_allclose(
      BatchNorm().apply(variables, x, train=False),
      at_rest.apply(variables, x),
      rtol=1e-5,
      atol=1e-5,
  )


@pytest.mark.parametrize('group', [1, 4])
def test_virtual_batches_are_normed_apart(group):
  x = 2 + 3 * images(8, 4, 5, 3)
  got, updated = normed(group, x)
  parts = [
      normed(None, x[i : i + group]) for i in range(0, len(x), group)
  ]
  np.testing.assert_allclose(
      got, np.concatenate([part for part, _ in parts]), rtol=1e-5, atol=1e-5
  )
  for name in ('mean', 'var'):
    mean = np.mean([u['batch_stats'][name] for _, u in parts], axis=0)
    np.testing.assert_allclose(
        updated['batch_stats'][name], mean, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('group', [3, 16, -2])
def test_virtual_batches_divide_the_batch(group):
  net = TINY['thin'].clone(bn_batch=group)
  x = images(8, 8, 8, 3)
  variables = net.init(jax.random.key(0), x[:1])
  with pytest.raises(ValueError, match='set `bn_batch` to a divisor'):
    net.apply(variables, x, train=True, mutable=['batch_stats'])


@pytest.mark.slow
@pytest.mark.parametrize(
    'base, bn_batch, sizes',
    [
        ('thin', 2, (4, 2, 1)),
        ('bottleneck', 4, (2, 2, 2)),
        ('thin', 4, (8, 1, 1)),
        ('thin', None, (1, 4, 2)),
        long('bottleneck', 2, (1, 4, 2)),
        long('bottleneck', None, (8, 1, 1)),
        ('convnet', 2, (8, 1, 1)),
        ('convnet', None, (1, 4, 2)),
    ],
)
def test_virtual_batches_do_not_depend_on_the_mesh(base, bn_batch, sizes):
  nets = {**TINY, 'convnet': ConvNet(classes=3, channels=(2, 3), hidden=4)}
  network = Deterministic(nets[base].clone(bn_batch=bn_batch))
  x = images(8, 8, 8, 3)
  tx = create_optimizer({'name': 'sgd', 'learning_rate': 0.1}, 10)
  step = tiny.train_step(
      network, tx, classes=3, num_examples=8, num_indices=2
  )
  states = []
  for shape in [(1, 1, 1), sizes]:
    devices = jax.devices()[: math.prod(shape)]
    mesh = sharding.create_mesh(dict(zip(sharding.AXES, shape)), devices)
    abstract = abstract_state(network, tx, x, mesh)
    state = create_train_state(network, tx, 0, x, abstract)
    where = sharding.batch_sharding(mesh)
    with sharding.use_mesh(mesh):
      batch = sharding.make_global_batch(a_batch(x, 3), where)
      state, _ = jax.jit(step)(state, batch)
    states.append(jax.device_get((state.params, state.collections)))
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      *states,
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', TINY)
def test_remat_computes_blocks_again_and_changes_no_number(name):
  net = TINY[name]
  x = images(16, 16, 16, 3)
  variables = jax.jit(net.init)(jax.random.key(1), x)
  y = jnp.arange(16) % 3

  def loss(params, net):
    (logits, _), updated = net.apply(
        {**variables, 'params': params}, x, train=True, mutable=['batch_stats']
    )
    scores = jax.nn.log_softmax(logits)[jnp.arange(16), y]
    return -scores.mean(), updated

  found, convolutions = [], []
  for remat in (False, True):
    run = jax.grad(
        functools.partial(loss, net=net.clone(remat=remat)), has_aux=True
    )
    jaxpr = str(jax.make_jaxpr(run)(variables['params']))
    convolutions.append(jaxpr.count('conv_general_dilated['))
    found.append(jax.jit(run)(variables['params']))
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      *found,
  )
  # All of them once more, but the stem and the last one of each block, whose
  # result no gradient needs.
  inside = sum(net.blocks) * (2 if name == 'thin' else 3)
  assert convolutions[1] - convolutions[0] >= inside - sum(net.blocks)
