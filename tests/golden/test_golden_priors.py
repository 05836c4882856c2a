"""Priors against enn's, which closes over their parameters.

Each is beside a network that is zero, at indices that enn drew.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from flax import linen as nn
import jax.numpy as jnp
import pytest

from flax_enn.checkpoints import haiku, haiku_resnet
from flax_enn.core import Output
from flax_enn.indexers import GaussianIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.index_mlp_prior import IndexMLPPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests.golden import cases, convert

CIFAR = {
    'channels': (4, 8, 4),
    'kernels': (5, 5, 5),
    'strides': (2, 2, 2),
    'resize': 32,
}

# A prior, and its variables.
Prior = tuple[nn.Module, dict[str, Any]]


class Zero(nn.Module):
  """A network without any output of its own."""

  classes: int

  @property
  def indexer(self):
    return GaussianIndexer(1)

  def __call__(self, x, index, *, train=False):
    del index, train
    return Output(jnp.zeros((len(x), self.classes)))


def conv_prior_of(params: cases.Params) -> Prior:
  """enn's conv priors of ImageNet and of CIFAR, told apart by their kernels."""
  tree = haiku_resnet.conv_prior_params(params)
  of_cifar = tree['kernel_0'].shape[1] == 5
  return ConvPrior(**(CIFAR if of_cifar else {})), tree


def conv_prior(case: cases.Case) -> Prior:
  """`make_imagenet_conv_prior` and `make_cifar_conv_prior`."""
  (params,) = map(case.hidden, case.hidden_tags())
  prior, tree = conv_prior_of(params)
  return prior, {'params': tree}


def pooled_mlp_prior(case: cases.Case) -> Prior:
  """`make_imagenet_mlp_prior`."""
  layers = convert.mlp.hidden_members(case)
  prior = MLPPrior(haiku.widths(layers)[:-1], pool=(10, 5))
  return prior, {'params': haiku.mlp_prior(layers)}


def ensemble_prior(case: cases.Case) -> Prior:
  """MLPs that the index combines linearly, at once or each by itself."""
  layers = convert.mlp.hidden_members(case)
  *hidden, classes = haiku.widths(layers)
  prior = EnsemblePrior(MLP(hidden, classes))
  return prior, {'params': {'member': layers}}


def gaussian_process(case: cases.Case) -> Prior:
  (tag,) = case.hidden_tags()
  prior, params = convert.priors.gp(case, tag)
  return prior, {'params': params}


def index_mlp_prior(case: cases.Case) -> Prior:
  (params,) = map(case.hidden, case.hidden_tags())
  (module,) = {name.split('/~/')[0] for name in params}
  inputs = case['in::x'].shape[-1]
  tree = haiku.index_mlp_prior(params, inputs, module)
  sizes = haiku.hiddens(params, f'{module}/~/linear_')
  return IndexMLPPrior(sizes), {'params': tree}


def network_as_prior(case: cases.Case) -> Prior:
  """`convert_enn_to_prior_fn` of an epinet, which has a prior of its own."""
  (tag,) = case.hidden_tags()
  arrays = {
      name.replace(f'hidden::{tag}', 'params', 1): array
      for name, array in case.arrays.items()
  }
  epinet = convert.mlp.epinet_of_mlp(dataclasses.replace(case, arrays=arrays))
  return epinet.network, epinet.variables


PRIORS: dict[str, Callable[[cases.Case], Prior]] = {
    'enn.networks.epinet.make_cifar_conv_prior': conv_prior,
    'enn.networks.epinet.make_imagenet_conv_prior': conv_prior,
    'enn.networks.epinet.make_imagenet_mlp_prior': pooled_mlp_prior,
    'enn.networks.make_ensemble_prior': ensemble_prior,
    'combine_functions_linear_in_index(make_mlp_ensemble_prior_fns)': (
        ensemble_prior
    ),
    'enn.networks.make_random_feat_gp': gaussian_process,
    'enn.networks.get_random_mlp_with_index': index_mlp_prior,
    'enn.networks.convert_enn_to_prior_fn': network_as_prior,
}
NAMES = cases.names(
    'priors/cifar_conv_prior cifar_conv_prior_resize_from_48'
    ' imagenet_conv_prior_small random_feat_gp random_feat_gp_gamma_range'
    ' convert_enn_to_prior_fn ensemble_prior_einsum combine_linear_in_index',
    PRIORS,
)


@pytest.mark.parametrize('name', NAMES)
def test_golden_priors(name):
  case = cases.load_case(name)
  prior, variables = PRIORS[case.meta['ctor']](case)
  expected = case['out::array']
  network = WithPrior(Zero(expected.shape[-1]), {'only': prior})
  x, frozen = jnp.asarray(case['in::x']), {'prior_only': variables}

  def value(z):
    return network.apply({'frozen': frozen}, x, z).prior

  cases.assert_close(over_index(value, jnp.asarray(case['z'])), expected)
