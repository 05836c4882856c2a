"""Frozen priors of images: what they compute and how large they are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior

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


def test_grouped_form_is_one_network_per_member():
  x = images(3, 9, 7, 3)
  prior = ConvPrior(classes=5, size=4, scale=0.7, **SMALL)
  variables = initialised(prior, x)
  basis = prior.apply(variables, x)
  p = variables['params']
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
      h = jax.nn.relu(h + p[f'bias_{i}'][k] + 0.0)
    out = h.reshape(3, -1) @ p['kernel_out'][k] + p['bias_out'][k]
    np.testing.assert_allclose(basis[..., k], 0.7 * out, rtol=1e-5, atol=1e-6)


def test_biases_count():
  x = images(2, 6, 6, 3)
  prior = ConvPrior(classes=4, size=3, **SMALL)
  variables = initialised(prior, x)
  moved = jax.tree.map(lambda leaf: leaf + 0.1, variables)
  for name in variables['params']:
    one = {'params': {**variables['params'], name: moved['params'][name]}}
    changed = prior.apply(one, x) - prior.apply(variables, x)
    assert (np.abs(changed).max((0, 1)) > 1e-4).all(), name


@pytest.mark.parametrize('size', [1, 4, 16])
def test_one_convolution_per_layer_whatever_the_size(size):
  x = images(2, 8, 8, 3)
  prior = ConvPrior(classes=5, size=size, **SMALL)
  variables = initialised(prior, x)
  jaxpr = str(jax.make_jaxpr(prior.apply)(variables, x))
  assert jaxpr.count('conv_general_dilated[') == len(SMALL['channels'])
  assert jaxpr.count('dot_general[') == 1


def test_members_differ():
  x = images(2, 8, 8, 3)
  prior = ConvPrior(classes=5, size=3, **SMALL)
  basis = prior.apply(initialised(prior, x), x)
  for i in range(3):
    for j in range(i):
      assert np.abs(basis[..., i] - basis[..., j]).max() > 0.1


def test_images_are_resized_first():
  x = images(2, 12, 10, 3)
  prior = ConvPrior(classes=5, size=3, resize=8, **SMALL)
  variables = initialised(prior, x)
  small = jax.image.resize(x, (2, 8, 8, 3), 'linear')
  np.testing.assert_array_equal(
      prior.apply(variables, x), prior.apply(variables, small)
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


def test_layers_must_be_as_many():
  prior = ConvPrior(classes=5, size=3, channels=(1, 2))
  with pytest.raises(ValueError, match=r'of config\.network\.priors') as e:
    initialised(prior, images(1, 8, 8, 3))
  assert '2 channels, 3 kernels and 3 strides' in str(e.value)


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
