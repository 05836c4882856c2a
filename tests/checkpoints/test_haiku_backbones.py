"""What enn calls its convolutional networks is all that ours have.

Their numbers, and BERT, are compared in `tests/golden`.
"""

import jax
import numpy as np
import pytest

from flax_enn.checkpoints import haiku_backbones
from flax_enn.networks.backbones.lenet5 import LeNet5
from flax_enn.networks.backbones.vgg import VGG

CHANNELS, CLASSES, K = (6, 5), 3, 2


def trees(network, inputs, **last):
  """Made-up parameters and state of K networks, by enn's names."""
  params, state = {}, {}
  sizes = {}
  for i, channels in enumerate(CHANNELS):
    fan_in = (inputs, *CHANNELS)[i]
    size = 5 if network == 'le_net5' else 3
    sizes[f'conv_2d_{i}'] = (size, size, fan_in, channels)
    if network == 'vgg':
      norm = f'{network}/~/batchnorm_{i}'
      leaf = np.full((K, 1, 1, 1, channels), i, np.float32)
      params[norm] = {'offset': leaf}
      for kind, number in (('mean', 1), ('var', 2)):
        average = {'average': leaf + number, 'hidden': leaf - number}
        state[f'{norm}/~/{kind}_ema'] = average
  for layer, shape in (sizes | last).items():
    params[f'{network}/~/{layer}'] = {
        'w': np.zeros((K, *shape)), 'b': np.zeros((K, shape[-1]))
    }
  return params, state


def shapes(module, x):
  found = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
  return jax.tree.map(lambda leaf: (K, *leaf.shape), found)


def shapes_of(**variables):
  return jax.tree.map(np.shape, variables)


def test_vgg():
  params, state = trees('vgg', 3, logits=(CHANNELS[-1], CLASSES))
  statistics = haiku_backbones.convnet_statistics(state)
  expected = shapes(VGG(CLASSES, CHANNELS, (1, 2)), np.zeros((1, 8, 8, 3)))
  assert expected == shapes_of(
      params=haiku_backbones.convnet(params), batch_stats=statistics
  )
  assert (statistics['norm_1']['mean'] == 2).all()
  assert (statistics['norm_1']['var'] == 3).all()
  hidden = haiku_backbones.convnet_statistics(state, 'hidden')
  assert (hidden['norm_1']['var'] == -1).all()


def test_lenet5():
  params, _ = trees('le_net5', 1, linear=(20, 7), logits=(7, CLASSES))
  expected = shapes(LeNet5(CLASSES, CHANNELS, 7), np.zeros((1, 8, 8, 1)))
  assert expected == shapes_of(params=haiku_backbones.convnet(params))


def test_other_networks_are_refused():
  params = {'res_net/~/initial_conv': {'w': np.zeros((1, 3, 3, 3, 16))}}
  with pytest.raises(ValueError, match="'res_net/~/initial_conv' is in no"):
    haiku_backbones.convnet(params)
