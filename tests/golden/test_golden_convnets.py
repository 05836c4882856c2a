"""LeNet-5, VGG and the ResNets with a prior of the image against enn's.

Batch statistics are compared as in `test_golden_resnets.py`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.checkpoints import haiku, haiku_backbones, haiku_resnet
from flax_enn.networks.backbones.lenet5 import LeNet5
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.backbones.vgg import VGG
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests.golden import cases
from tests.golden.test_golden_resnets import assert_close, one

ENSEMBLES = cases.names(
    'networks/lenet5 vgg_eval vgg_train',
    ['enn.networks.EnsembleLeNet5ENN', 'enn.networks.EnsembleVGGENN'],
)
PRIORS = cases.names(
    'networks/resnet_cnn_prior resnet_mlp_prior',
    ['enn.networks.ResnetCnnPrior', 'enn.networks.ResnetMlpPrior'],
)


@pytest.mark.parametrize('name', ENSEMBLES)
def test_golden_ensembles(name):
  case = cases.load_case(name)
  params, options = haiku_backbones.convnet(case.params()), case.kwargs
  train = options.get('is_training', False)
  convs = [k for k in params if k.startswith('conv_')]
  channels = [
      params[f'conv_{i}']['bias'].shape[-1] for i in range(len(convs))
  ]
  size, classes = params['out']['bias'].shape
  if 'VGG' in case.meta['ctor']:
    member = VGG(classes)
    assert list(member.channels) == channels
  else:
    member = LeNet5(classes, channels, params['dense']['bias'].shape[-1])
  network = Ensemble(member, size)
  variables = {'params': {'member': params}}
  if state := case.state():
    of = 'hidden' if train else 'average'
    running = haiku_backbones.convnet_statistics(state, of)
    variables['batch_stats'] = {'member': running}
  of_batch = train or options.get('test_local_stats', False)
  x = jnp.asarray(case['in::x'], jnp.float32)

  @jax.jit
  def apply(variables, indices):
    return over_index(
        lambda z: network.apply(
            variables, x, z, train=of_batch, mutable=['batch_stats']
        ),
        indices,
        out_axes=(0, None),
    )

  out, updated = apply(variables, jax.nn.one_hot(case['z'], size))
  recorded = 'out::array' if 'out::array' in case else 'out::preds'
  cases.assert_close(out.preds, case[recorded])
  if train:
    chosen = int(case['z'][0])
    jax.tree.map(
        lambda got, expected: cases.assert_close(
            got[chosen], expected[chosen]
        ),
        updated['batch_stats']['member'],
        haiku_backbones.convnet_statistics(
            case.tree('new_state'), 'hidden'
        ),
    )


def image_prior(params: cases.Params) -> tuple[Any, dict[str, Any]]:
  """The prior beside a ResNet: a convolutional network, or a perceptron.

  enn has one and trains it, at a gradient of zero; here it is a basis of one.
  """
  own = {k: v for k, v in params.items() if k.startswith('prior')}
  own = with_members(own)
  if 'prior_conv' in own:
    return ConvPrior(), haiku_resnet.conv_prior_params(own)
  layers = haiku.mlp(own, 'prior')
  return MLPPrior(haiku.widths(layers)[:-1]), haiku.mlp_prior(layers)


def with_members(tree: cases.Params) -> cases.Params:
  """What enn keeps of a single network, with an axis of members."""
  return {
      m: {k: v[None] for k, v in leaves.items()} for m, leaves in tree.items()
  }


@pytest.mark.slow
@pytest.mark.parametrize('name', PRIORS)
def test_golden_resnets_with_a_prior_of_the_image(name):
  case = cases.load_case(name)
  params = case.params()
  prior, random = image_prior(params)
  own = {k: v for k, v in params.items() if k.startswith('res_net/')}
  train = case.kwargs['is_training']
  of = 'hidden' if train else 'average'
  own, state = map(with_members, (own, case.state()))
  base = ResNet(case.kwargs['num_classes'], haiku_resnet.depth_of(own))
  scaled = ScaledPrior(prior, case.kwargs['prior_scale'])
  network = WithPrior(Deterministic(base), {'image': scaled})
  variables = {
      'params': {'base': one(haiku_resnet.params(base, own))},
      'batch_stats': {'base': one(haiku_resnet.statistics(base, state, of))},
      'frozen': {'prior_image': {'params': random}},
  }
  out, _ = jax.jit(
      functools.partial(
          network.apply, train=train, mutable=['batch_stats']
      )
  )(variables, jnp.asarray(case['in::x'], jnp.float32), jnp.ones(1))
  for kind in ('train', 'prior', 'preds'):
    assert_close(getattr(out, kind), case[f'out::{kind}'][0])
  assert np.abs(out.prior).max() > 0
