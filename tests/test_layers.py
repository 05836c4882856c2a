"""Layers, backbones, priors and Frozen against their plain formulas."""

import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import (
    IndexContract,
    IndexDense,
    ProjectedMLP,
    fan_in_init,
)
from flax_enn.networks.priors.mlp_prior import MLPPrior
from tests import thinned

B, F, C, D, K = 6, 5, 3, 4, 4
close = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-6)
X = jax.random.normal(jax.random.key(0), (B, F))
Z = jax.random.normal(jax.random.key(1), (D,))
IMAGES = jax.random.normal(jax.random.key(2), (B, 4, 4, 1))


def initialised(network, *args, **options):
  """Variables of a network, moved off their zeros (biases begin there)."""
  rngs = {'params': jax.random.key(3), 'frozen': jax.random.key(4)}
  init = jax.jit(functools.partial(network.init, **options))
  variables = init(rngs, *args)
  leaves, tree = jax.tree.flatten(variables)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  # Upwards: variances among them stay positive.
  return jax.tree.unflatten(
      tree,
      [a + 0.3 * jax.random.uniform(k, a.shape) for k, a in zip(keys, leaves)],
  )


def assert_trees_close(found, expected, **tolerance):
  jax.tree.map(functools.partial(close, **tolerance), found, expected)


# Layers of the index.


def concatenated(index, h):
  return jnp.concatenate([jnp.tile(index, (len(h), 1)), h], axis=-1)


def plain_dense(params, h, index):
  """A dense layer over the concatenation."""
  kernel = jnp.concatenate([params['z']['kernel'], params['h']['kernel']])
  return concatenated(index, h) @ kernel + params['h']['bias']


def plain_contract(params, h, index):
  """A dense layer with C·D outputs for each example, then the contraction."""
  features, classes, dim = params['kernel'].shape
  out = h @ params['kernel'].reshape(features, classes * dim)
  out = out + params['bias'].reshape(-1)
  return jnp.einsum('bcd,d->bc', out.reshape(-1, classes, dim), index)


def plain_projected_mlp(hiddens, concat_index, params, h, index):
  """The head as the paper has it."""
  if concat_index and not hiddens:
    h = concatenated(index, h)
  for i in range(len(hiddens)):
    layer = params[f'layer_{i}']
    if i == 0 and concat_index:
      h = plain_dense(layer, h, index)
    else:
      h = h @ layer['kernel'] + layer['bias']
    h = jnp.maximum(h, 0)
  return plain_contract(params['out'], h, index)


LAYERS = {
    'dense': (IndexDense(7), plain_dense),
    'contract': (IndexContract(C), plain_contract),
}
LAYERS |= {
    f'projected mlp {hiddens} {concat}': (
        ProjectedMLP(hiddens, C, concat_index=concat),
        functools.partial(plain_projected_mlp, hiddens, concat),
    )
    for hiddens in [(), (7,), (7, 6)]
    for concat in (True, False)
}


@pytest.mark.parametrize('name', thinned(LAYERS))
def test_layer_is_the_plain_form_with_its_gradients(name):
  layer, plain = LAYERS[name]
  params = initialised(layer, X, Z)['params']
  cotangent = jnp.sin(jnp.arange(100.0))

  def run(fn):
    def value(params, h, index):
      out = fn(params, h, index)
      return (out * cotangent[: out.size].reshape(out.shape)).sum(), out

    grad = jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True)
    return jax.jit(grad)(params, X, Z)

  (_, found), grads = run(lambda p, h, z: layer.apply({'params': p}, h, z))
  (_, expected), plain_grads = run(plain)
  assert found.shape == expected.shape
  close(found, expected)
  assert_trees_close(grads, plain_grads)
  assert all(np.any(g) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize(
    ('shape', 'fan_in'),
    [((400, 100), 400), ((3, 3, 64, 40), 576), ((100, 40, 5), 4000)],
)
def test_fan_in_init_is_a_truncated_normal(shape, fan_in):
  kernel = np.asarray(fan_in_init(jax.random.key(0), shape))
  size, std = kernel.size, 1 / math.sqrt(fan_in)
  # Cut at two deviations and not rescaled, a normal has deviation 0.8796.
  np.testing.assert_allclose(
      kernel.std() / std, 0.8796, atol=5 / math.sqrt(size)
  )
  np.testing.assert_allclose(kernel.mean() / std, 0, atol=5 / math.sqrt(size))
  assert 1.95 < np.abs(kernel).max() / std <= 2.0001


@pytest.mark.parametrize(
    ('layer', 'given', 'path', 'fan_in'),
    [
        (IndexDense(300), (jnp.zeros(44),), ('h', 'kernel'), 144),
        (IndexDense(300), (jnp.zeros(44),), ('z', 'kernel'), 144),
        (IndexContract(50), (jnp.zeros(44),), ('kernel',), 100),
        (MLPPrior((50,)), (3, 60), ('kernel_0',), 100),
        (MLPPrior((50,)), (3, 60), ('bias_0',), 100),
        (MLPPrior((50,)), (60, 60), ('kernel_1',), 50),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_layers_start_by_their_fan_in(layer, given, path, fan_in):
  """As if z and h were one input, and each perceptron a network of its own."""
  x = jnp.zeros((1, 100))
  kernel = layer.init(jax.random.key(0), x, *given)['params']
  for name in path:
    kernel = kernel[name]
  expected = 0.8796 / math.sqrt(fan_in)
  np.testing.assert_allclose(np.std(kernel), expected, rtol=0.04)


# Backbones and priors.


def numpy_mlp(params, h, activation=lambda h: np.maximum(h, 0)):
  """Logits and features of a perceptron."""
  h = np.asarray(h).reshape(len(h), -1)
  features = {'inputs': h}
  for i in range(len(params)):
    layer = jax.tree.map(np.asarray, params[f'layer_{i}'])
    h = h @ layer['kernel'] + layer['bias']
    last = i == len(params) - 1
    h = h if last else activation(h)
    features['logits' if last else f'hidden_{i}'] = h
  return h, features


@pytest.mark.parametrize('hiddens', [(), (7,), (7, 6)], ids=str)
def test_mlp_exposes_every_layer(hiddens):
  network = MLP(hiddens, C)
  x = IMAGES
  variables = initialised(network, x)
  logits, features = network.apply(variables, x)
  expected, expected_features = numpy_mlp(variables['params'], x)
  close(logits, expected)
  assert set(features) == set(expected_features)
  assert_trees_close(dict(features), expected_features)
  if hiddens:
    assert (features['hidden_0'] == 0).any()  # after its activation


def test_mlp_takes_its_activation_by_name():
  network = MLP((7,), C, activation='tanh')
  variables = initialised(network, X)
  expected, _ = numpy_mlp(variables['params'], X, np.tanh)
  close(network.apply(variables, X)[0], expected)


@pytest.mark.parametrize('nonzero', [True, False])
def test_mlp_starts_its_first_bias_random_if_told(nonzero):
  network = MLP((200, 6), C, nonzero_bias=nonzero)
  params = network.init(jax.random.key(0), X)['params']
  first, *others = (params[f'layer_{i}']['bias'] for i in range(3))
  expected = 0.88 / math.sqrt(F) if nonzero else 0
  np.testing.assert_allclose(np.std(first), expected, rtol=0.15)
  assert not any(np.any(bias) for bias in others)


def numpy_conv(x, kernel, stride):
  """A 3x3 convolution, padded such that ceil(size / stride) pixels result."""
  x, kernel = np.asarray(x), np.asarray(kernel)
  size = -(-x.shape[1] // stride)
  pad = max((size - 1) * stride + 3 - x.shape[1], 0)
  sides = (pad // 2, pad - pad // 2)
  x = np.pad(x, ((0, 0), sides, sides, (0, 0)))
  out = np.zeros((len(x), size, size, kernel.shape[-1]), np.float32)
  for i in range(size):
    for j in range(size):
      patch = x[:, i * stride : i * stride + 3, j * stride : j * stride + 3]
      out[:, i, j] = np.tensordot(patch, kernel, 3)
  return out


def numpy_convnet(variables, x, train, momentum):
  """Logits and updated statistics."""
  params, old = jax.tree.map(
      np.asarray, (variables['params'], variables['batch_stats'])
  )
  h, statistics = x, {}
  for i in range(2):
    h = numpy_conv(h, params[f'conv_{i}']['kernel'], stride=1 + i)
    running, norm = old[f'norm_{i}'], params[f'norm_{i}']
    mean, var = running['mean'], running['var']
    if train:
      mean, var = h.mean((0, 1, 2)), h.var((0, 1, 2))
      statistics[f'norm_{i}'] = {
          'mean': momentum * running['mean'] + (1 - momentum) * mean,
          'var': momentum * running['var'] + (1 - momentum) * var,
      }
    h = (h - mean) / np.sqrt(var + 1e-5) * norm['scale'] + norm['bias']
    h = np.maximum(h, 0)
  h = h.reshape(len(h), -1)
  h = np.maximum(h @ params['dense']['kernel'] + params['dense']['bias'], 0)
  return h @ params['out']['kernel'] + params['out']['bias'], statistics


@pytest.mark.parametrize('train', [True, False])
def test_convnet_is_numpys(train):
  network = ConvNet(C, channels=(2, 3), hidden=5, bn_momentum=0.7)
  variables = initialised(network, IMAGES)
  (logits, features), updated = network.apply(
      variables, IMAGES, train=train, mutable=['batch_stats']
  )
  expected, statistics = numpy_convnet(variables, IMAGES, train, 0.7)
  close(logits, expected, rtol=1e-4, atol=1e-5)
  assert_trees_close(
      updated['batch_stats'], statistics or variables['batch_stats']
  )
  shapes = {name: value.shape[1:] for name, value in features.items()}
  assert shapes == {
      'inputs': (4, 4, 1),
      'block_0': (4, 4, 2),
      'block_1': (2, 2, 3),
      'hidden': (5,),
      'logits': (C,),
  }


@pytest.mark.parametrize('hiddens', [(), (7,), (7, 6)], ids=str)
def test_mlp_prior_is_a_perceptron_for_each_entry_of_the_index(hiddens):
  network = MLPPrior(hiddens, scale=0.5)
  variables = initialised(network, IMAGES, classes=C, size=D)
  basis = network.apply(variables, IMAGES, C, D)
  assert basis.shape == (B, C, D)
  params = variables['params']
  for d in range(D):
    one = {
        f'layer_{i}': {
            'kernel': params[f'kernel_{i}'][d],
            'bias': params[f'bias_{i}'][d],
        }
        for i in range(len(hiddens) + 1)
    }
    close(basis[..., d], 0.5 * numpy_mlp(one, IMAGES)[0])


# Frozen.


@pytest.mark.parametrize('train', [True, False])
def test_frozen_runs_its_net_in_inference_mode(train):
  net = ConvNet(C, channels=(2, 3), hidden=5)
  variables = initialised(Frozen(net), IMAGES)
  assert set(variables) == {'frozen'}
  assert set(variables['frozen']) == {'params', 'batch_stats'}
  (logits, _), updated = Frozen(net).apply(
      variables, IMAGES, train=train, mutable=True
  )
  expected, _ = net.apply(variables['frozen'], IMAGES, train=False)
  np.testing.assert_array_equal(logits, expected)
  jax.tree.map(np.testing.assert_array_equal, updated, variables)


def test_frozen_hands_on_what_its_net_is_called_with():
  net = MLPPrior((7,))
  variables = initialised(Frozen(net), X, classes=C, size=D)
  found = Frozen(net).apply(variables, X, classes=C, size=D, train=True)
  expected = net.apply(variables['frozen'], X, C, D)
  np.testing.assert_array_equal(found, expected)


def test_frozen_weights_are_drawn_from_their_own_stream():
  net = Frozen(MLP((7,), C))

  def kernel(params, frozen):
    rngs = {'params': jax.random.key(params), 'frozen': jax.random.key(frozen)}
    variables = net.init(rngs, X)
    return np.asarray(variables['frozen']['params']['layer_0']['kernel'])

  np.testing.assert_array_equal(kernel(0, 1), kernel(2, 1))
  assert (kernel(0, 1) != kernel(0, 2)).any()


class Twins(nn.Module):
  """Two frozen copies of one description."""

  @nn.compact
  def __call__(self, x):
    net = MLP((), C)
    return Frozen(net, name='one')(x)[0], Frozen(net, name='two')(x)[0]


def test_frozen_nets_in_one_module_differ():
  one, two = Twins().init_with_output({'frozen': jax.random.key(0)}, X)[0]
  assert np.abs(one - two).max() > 0.1


def test_frozen_members_are_drawn_apart():
  net = MLP((7,), C)
  members = nn.vmap(
      Frozen,
      in_axes=None,
      axis_size=K,
      variable_axes={'frozen': 0},
      split_rngs={'frozen': True},
  )(net)
  (logits, _), variables = members.init_with_output(
      {'frozen': jax.random.key(0)}, X
  )
  assert logits.shape == (K, B, C)
  for k in range(K):
    one = jax.tree.map(lambda leaf, k=k: leaf[k], variables['frozen'])
    close(logits[k], net.apply(one, X)[0])
  assert len({float(logit) for logit in logits[:, 0, 0]}) == K


class Shift(nn.Module):
  """A net without any variables."""

  def __call__(self, x):
    return x + 1


def test_frozen_takes_a_net_without_variables():
  out, variables = Frozen(Shift()).init_with_output(jax.random.key(0), X)
  assert not jax.tree.leaves(variables)
  np.testing.assert_array_equal(out, X + 1)
  np.testing.assert_array_equal(Frozen(Shift()).apply(variables, X), X + 1)
