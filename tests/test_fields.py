"""Fields of networks that mean nothing are refused as they are set."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.batch_ensemble import BatchEnsemble
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.gaussian_noise import GaussianNoise
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.layers import ACTIVATIONS, activation
from flax_enn.networks.lora_ensemble import LoraEnsemble
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.sngp import Sngp
from flax_enn.networks.variational_last_layer import VariationalLastLayer

BASE = MLP((), 2)
LAST = {'base': BASE, 'features': ('logits',)}
POSITIVE = {
    BatchEnsemble: ({'base': BASE, 'size': 2}, ['size']),
    BayesByBackprop: ({'base': BASE}, ['init_scale', 'temperature']),
    GaussianNoise: ({'base': BASE}, ['init_scale']),
    Hypermodel: (
        {'base': BASE, 'index_dim': 2},
        ['index_dim', 'index_scale', 'temperature'],
    ),
    Laplace: (
        {**LAST, 'form': 'low_rank'},
        ['prior_precision', 'noise_std', 'rank'],
    ),
    LoraEnsemble: ({'base': BASE, 'size': 2}, ['size', 'rank']),
    Sngp: (
        {**LAST, 'classes': 2},
        ['num_features', 'length_scale', 'ridge'],
    ),
    VariationalLastLayer: ({**LAST, 'classes': 2}, ['init_scale']),
}


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
