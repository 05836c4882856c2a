"""Hypermodels: weights that the index generates."""

from flax import linen as nn
import jax
import numpy as np
import pytest

from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.hypermodel import Hypermodel
from tests.test_key_networks import KEY, RNGS, X, start


def by_hand(params, z, scale_kernels):
  """Generated parameters, one direction after the other."""

  def generate(path, mean):
    directions = params['directions'][path[0].key][path[1].key]
    leaf = np.array(mean)
    for entry, direction in zip(z, directions):
      leaf += entry * direction
    if scale_kernels and path[1].key == 'kernel':
      leaf /= np.sqrt(np.prod(leaf.shape[:-1]))
    return leaf

  return jax.tree_util.tree_map_with_path(generate, params['mean'])


class Conv(nn.Module):
  """A backbone with a kernel of four axes."""

  @nn.compact
  def __call__(self, x, *, train=False):
    h = nn.Conv(4, (3, 3), name='conv')(x)
    return nn.Dense(3, name='out')(nn.relu(h).mean((1, 2))), {}


@pytest.mark.parametrize(
    ('base', 'scale_kernels'), [(MLP((6,), 3), False), (Conv(), True)]
)
def test_generated_weights_are_those_made_by_hand(base, scale_kernels):
  x = jax.random.normal(KEY, (5, 4, 4, 2)) if isinstance(base, Conv) else X
  network = Hypermodel(
      base, index_dim=3, scale_kernels=scale_kernels, temperature=0.5
  )
  variables = start(network, x)
  z = network.indexer.sample(KEY, 2)[1]
  out = jax.jit(network.apply)(variables, x, z)
  weights = by_hand(variables['params'], np.asarray(z), scale_kernels)
  jax.tree.map(
      lambda got, slow: np.testing.assert_allclose(got, slow, 1e-5, 1e-6),
      out.extra['parameters'],
      weights,
  )
  expected = base.apply({'params': weights}, x)[0] / 0.5
  np.testing.assert_allclose(out.train, expected, rtol=1e-4, atol=1e-5)


def test_unscaled_weights_start_as_in_enn():
  """`fan_avg` of each generating layer, at z ~ N(0, I)."""
  base, dim = MLP((200,), 100), 30
  network = Hypermodel(base, index_dim=dim, scale_kernels=False)
  params = start(network)['params']
  size = 200 * 100
  directions = params['directions']['layer_1']['kernel']
  mean = params['mean']['layer_1']['kernel']
  assert directions.std() == pytest.approx((2 / (dim + size)) ** 0.5, rel=0.02)
  assert mean.std() == pytest.approx(size**-0.5, rel=0.02)


def test_scaled_weights_start_with_a_variance_of_order_one():
  """Unlike in enn, which draws them small and divides them as well."""
  network = Hypermodel(MLP((200, 200), 200), index_dim=30)
  z = network.indexer.sample(KEY, 2)[1]
  generated = network.apply(start(network), X, z).extra['generated']
  for layer in generated.values():
    assert layer['kernel'].std() == pytest.approx(1, rel=0.2)
    assert 0 < abs(layer['bias']).max() < 0.5


@pytest.mark.parametrize(
    'network', [Hypermodel(ConvNet(3), 2), BayesByBackprop(ConvNet(3))]
)
def test_a_base_with_statistics_is_refused(network):
  x = np.zeros((2, 4, 4, 1))
  index = network.indexer.sample(KEY, 1)[0]
  with pytest.raises(ValueError, match=r"ConvNet has variables in \['batch_st"):
    network.init(RNGS, x, index)
