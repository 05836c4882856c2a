"""Fields of networks that mean nothing are refused as they are set."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.backbones.bert import Bert
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.lenet5 import LeNet5
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.backbones.mobilenet_v2 import MobileNetV2
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.backbones.spectral_norm import SpectralNorm
from flax_enn.networks.backbones.vgg import VGG
from flax_enn.networks.backbones.vit import ViT
from flax_enn.networks.batch_ensemble import BatchEnsemble
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.gaussian_noise import GaussianNoise
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.index_mlp import IndexMLP
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.layers import ACTIVATIONS, activation
from flax_enn.networks.linear_ensemble import LinearEnsemble
from flax_enn.networks.lora_ensemble import LoraEnsemble
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.gp_prior import GPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.sngp import Sngp
from flax_enn.networks.variational_last_layer import VariationalLastLayer

BASE = MLP((), 2)
LAST = {'base': BASE, 'features': ('logits',)}
POSITIVE = {
    BatchEnsemble: ({'base': BASE, 'size': 2}, ['size']),
    BayesByBackprop: ({'base': BASE}, ['init_scale', 'temperature']),
    GaussianNoise: ({'base': BASE}, ['init_scale']),
    ConvPrior: ({}, ['channels', 'resize']),
    Ensemble: ({'member': BASE, 'size': 2}, ['size']),
    Epinet: (LAST, ['index_dim', 'hiddens', 'prior_hiddens']),
    GPPrior: ({'classes': 2}, ['classes', 'features']),
    Hypermodel: (
        {'base': BASE, 'index_dim': 2},
        ['index_dim', 'index_scale', 'hiddens', 'temperature'],
    ),
    IndexMLP: (
        {'hiddens': (2,), 'classes': 2, 'index_dim': 2},
        ['hiddens', 'classes', 'variance_hidden'],
    ),
    Laplace: (
        {**LAST, 'form': 'low_rank'},
        ['prior_precision', 'noise_std', 'rank'],
    ),
    LinearEnsemble: (LAST, ['index_dim']),
    LoraEnsemble: ({'base': BASE, 'size': 2}, ['size', 'rank']),
    Sngp: (
        {**LAST, 'classes': 2},
        ['classes', 'num_features', 'length_scale', 'ridge'],
    ),
    SpectralNorm: ({'net': BASE}, ['bound', 'iterations']),
    VariationalLastLayer: ({**LAST, 'classes': 2}, ['init_scale']),
}
FINITE = {
    ConvPrior: ({}, 'scale'),
    Epinet: (LAST, 'prior_scale'),
    GPPrior: ({'classes': 2}, 'gamma'),
    LinearEnsemble: (LAST, 'prior_scale'),
    LoraEnsemble: ({'base': BASE, 'size': 2}, 'scale'),
    Rescaled: ({'net': BASE}, 'mean'),
    ScaledPrior: ({'net': BASE}, 'scale'),
}
# Of bases, as far as a value that means nothing would compute something.
BASES = [
    (Bert, {'classes': 2, 'dropout': 1.5}),
    (ConvNet, {'classes': 2, 'bn_momentum': 2.0}),
    (LeNet5, {'classes': 2, 'channels': (2, 0)}),
    (MLP, {'classes': 2, 'hiddens': (0,)}),
    (MobileNetV2, {'classes': 2, 'width': 0}),
    (ResNet, {'classes': 2, 'bn_momentum': np.nan}),
    (VGG, {'classes': 0}),
    (ViT, {'classes': 2, 'layers': -1}),
]


@pytest.mark.parametrize('bad', [0, -1, np.nan, np.inf])
@pytest.mark.parametrize(
    ('network', 'field'),
    [(network, f) for network, (_, fields) in POSITIVE.items() for f in fields],
)
def test_numbers_above_0(network, field, bad):
  given = POSITIVE[network][0]
  network(**given)  # is one
  with pytest.raises(ValueError, match=f'`{field}` of .* is {bad}; set it'):
    network(**{**given, field: bad})


@pytest.mark.parametrize('bad', [np.nan, -np.inf, (1.0, np.nan)])
@pytest.mark.parametrize('network', FINITE)
def test_numbers_that_are_finite(network, bad):
  given, field = FINITE[network]
  network(**given, **{field: 0.0})
  with pytest.raises(ValueError, match=f'`{field}` of .* is .*; set it to a f'):
    network(**given, **{field: bad})


@pytest.mark.parametrize(('base', 'fields'), BASES)
def test_bases(base, fields):
  name, bad = list(fields.items())[-1]
  says = re.escape(f'the `{name}` of {base.__name__} is {bad}; set it')
  with pytest.raises(ValueError, match=says):
    base(**fields)


@pytest.mark.parametrize('bad', [-0.1, 2.0, np.nan])
@pytest.mark.parametrize('network', [Laplace, Sngp])
def test_shares(network, bad):
  with pytest.raises(ValueError, match=f'`decay` of .* is {bad}; set it to a'):
    network(**{**POSITIVE[network][0], 'decay': bad})


@pytest.mark.parametrize('network', [MLP, MLPDropout])
@pytest.mark.parametrize('bad', ['foo', 'Dense', 'compact'])
def test_activations(network, bad):
  with pytest.raises(ValueError, match=f"activation is '{bad}'; it is one of"):
    network(hiddens=(2,), classes=2, activation=bad)


def test_an_activation_acts_on_each_unit():
  h = jax.ShapeDtypeStruct((2, 3), jnp.float32)
  for name in ACTIVATIONS:
    assert jax.eval_shape(activation(name), h).shape == h.shape
