"""Priors of the input: what they compute and how large they are."""

import math
import re

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.priors.conv_prior import (
    ConvPrior,
    depthwise_conv,
    grouped_conv,
)
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from tests import slow

CIFAR = {'channels': (4, 8, 4), 'kernels': (5, 5, 5), 'strides': (2, 2, 2)}
SMALL = {'channels': (2, 3), 'kernels': (3, 2), 'strides': (2, 1)}


def images(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def initialised(prior, x, classes=5, size=3):
  return prior.init(jax.random.key(1), x, classes, size)


@pytest.mark.parametrize(
    'prior, side, classes, size, count',
    [
        (ConvPrior(), 224, 1000, 30, 6_179_880),
        (ConvPrior(resize=32, **CIFAR), 32, 10, 20, 51_320),
    ],
    ids=['imagenet', 'cifar10'],
)
def test_parameter_counts_are_those_of_enn(prior, side, classes, size, count):
  x = jnp.zeros((1, side, side, 3))
  shapes = jax.eval_shape(lambda: initialised(prior, x, classes, size))
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
  assert sum(sizes) == count


@pytest.mark.slow
def test_each_member_is_a_network_of_its_own():
  x = images(3, 9, 7, 3)
  prior = ConvPrior(scale=0.7, **SMALL)
  # Biases too: they start at zero, as in enn's recorded numbers.
  p = jax.tree.map(
      lambda leaf: leaf + 0.1 * images(*leaf.shape, seed=leaf.size),
      initialised(prior, x, size=4)['params'],
  )
  basis = prior.apply({'params': p}, x, 5, 4)
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


@pytest.mark.parametrize(('platform', 'channels'), [('cpu', 2), ('tpu', 1)])
@pytest.mark.parametrize('size', [slow(1), 4, slow(16)])
def test_one_convolution_per_layer_whatever_the_size(size, platform, channels):
  """The second has a group for each network on TPUs, each channel elsewhere."""
  x = images(2, 8, 8, 3)
  prior = ConvPrior(**SMALL)
  variables = initialised(prior, x, size=size)
  traced = jax.jit(lambda v: prior.apply(v, x, 5, size)).trace(variables)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  found = re.findall(r'feature_group_count = (\d+)', text)
  assert found == ['1', str(size * channels)]
  assert text.count('stablehlo.dot_general') == 1
  assert 'stablehlo.while' not in text


@pytest.mark.parametrize('stride', [1, 2, 3])
def test_both_forms_of_a_convolution_are_equal(stride):
  h, weights = images(3, 9, 7, 4, 2), images(4, 5, 5, 2, 6, seed=1)
  grouped = grouped_conv(h, weights, stride=stride)
  depthwise = depthwise_conv(h, weights, stride=stride)
  assert grouped.shape == depthwise.shape
  assert grouped.shape[3:] == (4, 6)
  np.testing.assert_allclose(grouped, depthwise, rtol=1e-5, atol=1e-5)


def test_forms_are_chosen_inside_maps_and_loops():
  """As in an evaluation: mapped over an axis of the mesh, in a scan."""
  x = images(6, 8, 8, 3)
  prior = ConvPrior(**SMALL)
  variables = initialised(prior, x, size=4)

  def apply(x):
    return prior.apply(variables, x, 5, 4)

  def mapped(xs):
    over = jax.vmap(apply, spmd_axis_name='index')
    return jax.lax.scan(lambda _, x: (None, over(x)), None, xs)[1]

  xs = x.reshape(3, 2, 1, 8, 8, 3)
  with sharding.use_mesh(sharding.create_mesh({'data': 4, 'index': 2})):
    found = jax.jit(mapped)(xs)
    shape = jax.eval_shape(mapped, xs).shape
  assert found.shape == shape
  np.testing.assert_allclose(
      found.reshape(6, 5, 4), apply(x), rtol=1e-5, atol=1e-6
  )


def test_devices_share_the_work():
  """Each computes its own examples, and none waits for another."""
  x = images(8, 16, 16, 3)
  prior = ConvPrior(**CIFAR)
  variables = initialised(prior, x, size=4)
  sizes = {'data': 4, 'index': 1, 'fsdp': 1}
  mesh = sharding.create_mesh(sizes, jax.devices()[:4])
  everywhere = NamedSharding(mesh, PartitionSpec())
  split = NamedSharding(mesh, PartitionSpec('data'))

  def basis(variables, x):
    return prior.apply(variables, x, 5, 4)

  apply = jax.jit(basis, out_shardings=split)
  placed = jax.device_put(variables, everywhere), jax.device_put(x, split)
  alone = jax.jit(basis).lower(variables, x).compile()
  shared = apply.lower(*placed).compile()
  assert not re.search('all-|permute', shared.as_text())
  flops = [each.cost_analysis()['flops'] for each in (alone, shared)]
  assert flops[1] < 0.3 * flops[0]
  np.testing.assert_allclose(
      shared(*placed), alone(variables, x), rtol=1e-5, atol=1e-6
  )


def test_weights_start_by_the_fan_in_of_a_member_and_biases_at_zero():
  prior = ConvPrior(channels=(8, 8), kernels=(5, 3), strides=(2, 2))
  params = initialised(prior, images(1, 8, 8, 3), 30, 50)['params']
  fan_in = {'kernel_0': 5 * 5 * 3, 'kernel_1': 3 * 3 * 8, 'kernel_out': 32}
  for name, value in params.items():
    # A normal cut at two deviations and not rescaled has deviation 0.8796.
    std = 0.8796 / math.sqrt(fan_in[name]) if name in fan_in else 0
    size = np.sqrt(np.mean(value**2))
    np.testing.assert_allclose(size, std, rtol=0.03, err_msg=name)


def test_members_differ():
  x = images(2, 8, 8, 3)
  prior = ConvPrior(**SMALL)
  basis = prior.apply(initialised(prior, x), x, 5, 3)
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
  prior = ConvPrior(resize=8, **SMALL)
  variables = initialised(prior, x)
  rows, columns = (triangles(side, 8) for side in shape)
  resized = np.einsum('ih,jw,bhwc->bijc', rows, columns, x)
  np.testing.assert_allclose(
      prior.apply(variables, x, 5, 3),
      prior.clone(resize=None).apply(variables, resized, 5, 3),
      rtol=1e-5,
      atol=1e-6,
  )


@pytest.mark.parametrize(
    'prior',
    [
        ConvPrior(dtype=jnp.bfloat16, **SMALL),
        MLPPrior((4,), pool=(3, 2), dtype=jnp.bfloat16),
    ],
)
def test_half_precision_within_gives_float32(prior):
  x = images(2, 8, 8, 3)
  variables = initialised(prior, x)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
      jnp.dtype('float32')
  }
  half = prior.apply(variables, x, 5, 3)
  full = prior.clone(dtype=None).apply(variables, x, 5, 3)
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
  prior = ConvPrior(**fields)
  with pytest.raises(ValueError, match=says) as caught:
    initialised(prior, images(1, 8, 8, 3))
  assert 'set channels, kernels and strides to one' in str(caught.value)


@pytest.mark.parametrize('shape', [(2, 8, 12, 3), (2, 30)], ids=str)
def test_only_images_are_pooled(shape):
  prior = MLPPrior((4,), pool=(10, 5))
  with pytest.raises(ValueError, match=r'window 10; set') as caught:
    initialised(prior, images(*shape))
  assert f'shape {shape}' in str(caught.value)
  assert '`pool`' in str(caught.value)


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
  plain = MLPPrior((6,))
  prior = plain.clone(pool=(window, stride))
  variables = initialised(prior, x)
  np.testing.assert_allclose(
      prior.apply(variables, x, 5, 3),
      plain.apply(variables, pooled, 5, 3),
      rtol=1e-5,
      atol=1e-6,
  )


@pytest.mark.parametrize('skip', [2, 3])
def test_an_ensemble_prior_has_a_copy_at_least(skip):
  with pytest.raises(ValueError, match=f'is {skip}, but the index has 2 entr'):
    EnsemblePrior(MLP((), 3), skip).init(jax.random.key(0), jnp.ones((1, 4)), 2)


def test_an_ensemble_prior_is_a_random_copy_for_each_entry_of_the_index():
  x = images(4, 6)
  member = MLP((7,), 5)
  prior = EnsemblePrior(member)
  variables = prior.init(jax.random.key(1), x, 3)
  basis = prior.apply(variables, x, 3)
  assert basis.shape == (4, 5, 3)
  for k in range(3):
    own = jax.tree.map(lambda leaf, k=k: leaf[k], variables['params']['member'])
    logits, _ = member.apply({'params': own}, x)
    np.testing.assert_allclose(basis[..., k], logits, rtol=1e-5, atol=1e-6)
  assert np.abs(np.diff(basis)).min(axis=(0, 1)).max() > 0
  kernels = variables['params']['member']['layer_0']['kernel']
  assert len(np.unique(kernels)) == kernels.size
