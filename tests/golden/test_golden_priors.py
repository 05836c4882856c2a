"""Frozen priors of images against enn's, which closes over their parameters."""

from typing import Any

import jax.numpy as jnp
import pytest

from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from tests.golden import cases, convert

CIFAR = {'channels': (4, 8, 4), 'kernels': (5, 5, 5), 'strides': (2, 2, 2)}


def conv_prior(params: cases.Params) -> tuple[ConvPrior, dict[str, Any]]:
  """enn's conv priors of ImageNet and of CIFAR, told apart by their kernels."""
  last = params['prior/~/linear_0']
  tree = {'kernel_out': last['w'], 'bias_out': last['b']}
  for i, module in enumerate(['prior_conv', 'prior_conv_1', 'prior_conv_2']):
    tree[f'kernel_{i}'] = params[module]['w']
    tree[f'bias_{i}'] = params[module]['b']
  of_cifar = tree['kernel_0'].shape[1] == 5
  return ConvPrior(**(CIFAR | {'resize': 32} if of_cifar else {})), tree


def pooled_mlp_prior(params: cases.Params) -> tuple[MLPPrior, dict[str, Any]]:
  """`make_imagenet_mlp_prior`."""
  layers = convert.members(params)
  tree = {}
  for i, layer in enumerate(layers.values()):
    tree |= {f'kernel_{i}': layer['kernel'], f'bias_{i}': layer['bias']}
  return MLPPrior(convert.widths(layers)[:-1], pool=(10, 5)), tree


PRIORS = {
    'enn.networks.epinet.make_cifar_conv_prior': conv_prior,
    'enn.networks.epinet.make_imagenet_conv_prior': conv_prior,
    'enn.networks.epinet.make_imagenet_mlp_prior': pooled_mlp_prior,
}
NAMES = cases.names(
    'priors/cifar_conv_prior cifar_conv_prior_resize_from_48'
    ' imagenet_conv_prior_small',
    PRIORS,
)


@pytest.mark.parametrize('name', NAMES)
def test_golden_priors(name):
  case = cases.load_case(name)
  (tag,) = case.hidden_tags()
  prior, params = PRIORS[case.meta['ctor']](case.hidden(tag))
  classes, size = case.kwargs['num_classes'], case.kwargs['num_ensemble']
  x = jnp.asarray(case['in::x'])
  basis = prior.apply({'params': params}, x, classes, size)
  out = jnp.einsum('bcd,nd->nbc', basis, case['z'])
  cases.assert_close(out, case['out::array'])
