"""Frozen priors of images: what they compute and how large they are."""

import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from tests.test_laws import equations

CIFAR = {'channels': (4, 8, 4), 'kernels': (5, 5, 5), 'strides': (2, 2, 2)}
SMALL = {'channels': (2, 3), 'kernels': (3, 2), 'strides': (2, 1)}


def images(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def initialised(prior, x):
  return prior.init(jax.random.key(1), x)


@pytest.mark.parametrize(
    'prior, side, count',
    [
        (ConvPrior(classes=1000, size=30), 224, 6_179_880),
        (ConvPrior(classes=10, size=20, resize=32, **CIFAR), 32, 51_320),
    ],
    ids=['imagenet', 'cifar10'],
)
def test_parameter_counts_are_those_of_enn(prior, side, count):
  x = jnp.zeros((1, side, side, 3))
  shapes = jax.eval_shape(prior.init, jax.random.key(0), x)
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
  assert sum(sizes) == count


def test_each_member_is_a_network_of_its_own():
  x = images(3, 9, 7, 3)
  prior = ConvPrior(classes=5, size=4, scale=0.7, **SMALL)
  # Biases too: they start at zero, as in enn's recorded numbers.
  p = jax.tree.map(
      lambda leaf: leaf + 0.1 * images(*leaf.shape, seed=leaf.size),
      initialised(prior, x)['params'],
  )
  basis = prior.apply({'params': p}, x)
  for k in range(4):
    h = x
    for i, stride in enumerate(SMALL['strides']):
      h = jax.lax.conv_general_dilated(
          h,
          p[f'kernel_{i}'][k],
          (stride, stride),
          'SAME',
          dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      )
      h = jax.nn.relu(h + p[f'bias_{i}'][k])
    out = h.reshape(3, -1) @ p['kernel_out'][k] + p['bias_out'][k]
    np.testing.assert_allclose(basis[..., k], 0.7 * out, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('size', [1, 4, 16])
def test_one_convolution_per_layer_whatever_the_size(size):
  x = images(2, 8, 8, 3)
  prior = ConvPrior(classes=5, size=size, **SMALL)
  jaxpr = jax.make_jaxpr(prior.apply)(initialised(prior, x), x)
  names = [e.primitive.name for e in equations(jaxpr.jaxpr)]
  assert names.count('conv_general_dilated') == len(SMALL['channels'])
  assert names.count('dot_general') == 1
  assert not {'scan', 'while'} & set(names)


def test_devices_share_the_work():
  """Each computes its own examples, and none waits for another."""
  x = images(8, 16, 16, 3)
  prior = ConvPrior(classes=5, size=4, **CIFAR)
  variables = initialised(prior, x)
  sizes = {'data': 4, 'index': 1, 'fsdp': 1}
  mesh = sharding.create_mesh(sizes, jax.devices()[:4])
  everywhere = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec('data'))
  apply = jax.jit(prior.apply, out_shardings=split)
  placed = jax.device_put(variables, everywhere), jax.device_put(x, split)
  alone = jax.jit(prior.apply).lower(variables, x).compile()
  shared = apply.lower(*placed).compile()
  assert not re.search('all-|permute', shared.as_text())
  flops = [each.cost_analysis()['flops'] for each in (alone, shared)]
  assert flops[1] < 0.3 * flops[0]
  np.testing.assert_allclose(
      shared(*placed), alone(variables, x), rtol=1e-5, atol=1e-6
  )


def test_weights_start_by_the_fan_in_of_a_member_and_biases_at_zero():
  prior = ConvPrior(
      classes=30, size=50, channels=(8, 8), kernels=(5, 3), strides=(2, 2)
  )
  params = initialised(prior, images(1, 8, 8, 3))['params']
  fan_in = {'kernel_0': 5 * 5 * 3, 'kernel_1': 3 * 3 * 8, 'kernel_out': 32}
  for name, value in params.items():
    # A normal cut at two deviations and not rescaled has deviation 0.8796.
    std = 0.8796 / math.sqrt(fan_in[name]) if name in fan_in else 0
    size = np.sqrt(np.mean(value**2))
    np.testing.assert_allclose(size, std, rtol=0.03, err_msg=name)


def test_members_differ():
  x = images(2, 8, 8, 3)
  prior = ConvPrior(classes=5, size=3, **SMALL)
  basis = prior.apply(initialised(prior, x), x)
  for i in range(3):
    for j in range(i):
      assert np.abs(basis[..., i] - basis[..., j]).max() > 0.1


def triangles(inputs, outputs):
  """Weights `[outputs, inputs]` of bilinear, antialiased resizing."""
  scale = inputs / outputs
  centres = (np.arange(outputs) + 0.5) * scale - 0.5
  distances = np.abs(np.arange(inputs) - centres[:, None])
  weights = np.maximum(0, 1 - distances / max(scale, 1))
  return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize('shape', [(12, 10), (8, 8), (5, 19)], ids=str)
def test_images_are_resized_first(shape):
  x = images(2, *shape, 3)
  prior = ConvPrior(classes=5, size=3, resize=8, **SMALL)
  variables = initialised(prior, x)
  rows, columns = (triangles(side, 8) for side in shape)
  resized = np.einsum('ih,jw,bhwc->bijc', rows, columns, x)
  np.testing.assert_allclose(
      prior.apply(variables, x),
      prior.clone(resize=None).apply(variables, resized),
      rtol=1e-5,
      atol=1e-6,
  )


@pytest.mark.parametrize(
    'prior',
    [
        ConvPrior(classes=5, size=3, dtype=jnp.bfloat16, **SMALL),
        MLPPrior((4,), classes=5, size=3, pool=(3, 2), dtype=jnp.bfloat16),
    ],
)
def test_half_precision_within_gives_float32(prior):
  x = images(2, 8, 8, 3)
  variables = initialised(prior, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')
  }
  half = prior.apply(variables, x)
  full = prior.clone(dtype=None).apply(variables, x)
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - full).max() < 0.05


@pytest.mark.parametrize(
    'fields, says',
    [
        ({'channels': (1, 2)}, '2 channels, 3 kernels and 3 strides'),
        ({'strides': (1,)}, '3 channels, 3 kernels and 1 strides'),
        ({'channels': (), 'kernels': (), 'strides': ()}, '0 channels'),
    ],
)
def test_layers_must_be_as_many(fields, says):
  prior = ConvPrior(classes=5, size=3, **fields)
  with pytest.raises(ValueError, match=says) as caught:
    initialised(prior, images(1, 8, 8, 3))
  assert 'strides of config.network.priors.*' in str(caught.value)


@pytest.mark.parametrize('shape', [(2, 8, 12, 3), (2, 30)], ids=str)
def test_only_images_are_pooled(shape):
  prior = MLPPrior((4,), classes=5, size=3, pool=(10, 5))
  with pytest.raises(ValueError, match=r'window 10; set') as caught:
    initialised(prior, images(*shape))
  assert f'shape {shape}' in str(caught.value)
  assert 'config.network.priors.*.pool' in str(caught.value)


def test_perceptrons_see_pooled_images():
  x = np.asarray(images(2, 11, 9, 3))
  window, stride = 4, 3
  rows, columns = ((side - window) // stride + 1 for side in (11, 9))
  pooled = np.array([
      [
          image[r : r + window, c : c + window].mean((0, 1))
          for r in range(0, rows * stride, stride)
          for c in range(0, columns * stride, stride)
      ]
      for image in x
  ])
  plain = MLPPrior((6,), classes=5, size=3)
  prior = plain.clone(pool=(window, stride))
  variables = initialised(prior, x)
  np.testing.assert_allclose(
      prior.apply(variables, x),
      plain.apply(variables, pooled),
      rtol=1e-5,
      atol=1e-6,
  )
