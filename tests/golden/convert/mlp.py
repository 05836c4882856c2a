"""Perceptrons: ensembles, epinets, and what both are made of."""

from collections.abc import Sequence
import dataclasses
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.checkpoints import haiku
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.layers import ProjectedMLP
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from tests.golden.cases import Case
from tests.golden.convert.converted import Converted
from tests.golden.convert.stochastic import mlp_dropout


def hidden_members(case: Case) -> dict[str, Any] | None:
  """K MLPs that enn has closed over: all at once, or each by itself."""
  found = [haiku.members(case.hidden(tag)) for tag in case.hidden_tags()]
  if len(found) > 1:
    return haiku.stacked(found)
  return found[0] if found else None


def exposed(expose_layers: Sequence[bool] | None, hidden: int) -> list[str]:
  """Our names of the features that enn's `ExposedMLP` exposes."""
  layers = [f'hidden_{i}' for i in range(hidden)] + ['logits']
  chosen = [True] * len(layers) if expose_layers is None else expose_layers
  return ['inputs', *itertools.compress(layers, chosen)]


def epinet_of_mlp(
    case: Case, expose_layers: Sequence[bool] | None = None
) -> Converted:
  """`make_mlp_epinet`: a base MLP with an epinet on what it exposes."""
  options, params = case.kwargs, case.params()
  prefix = f'{options["name"]}_' if options.get('name') else ''
  base, head = f'{prefix}base_mlp/~/linear_', f'{prefix}train_epinet'
  matched = f'{prefix}prior_epinet'
  sizes, classes = haiku.hiddens(params, base), haiku.outputs(params, base)
  dim = haiku.index_dim(params, head, classes)

  def convert(params):
    return {
        'base': haiku.mlp(params, f'{prefix}base_mlp'),
        'head': haiku.projected_mlp(params, head, dim),
    }

  prior = haiku.projected_mlp(params, matched, dim)
  prior_scale = options.get('prior_scale', 1.0)
  network = Epinet(
      base=MLP(sizes, classes),
      features=exposed(
          options.get('expose_layers', expose_layers), len(sizes)
      ),
      index_dim=dim,
      hiddens=haiku.hiddens(params, f'{head}/~/mlp/~/linear_'),
      prior_hiddens=haiku.hiddens(params, f'{matched}/~/mlp/~/linear_'),
      prior_scale=prior_scale,
      # ExposedMLP stops the gradient, whatever make_mlp_epinet was told.
      stop_gradient=True,
  )
  frozen = {'prior': {'params': prior}}
  variables = {'params': convert(params), 'frozen': frozen}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


class Given(nn.Module):
  """A base that was run before: its features are the inputs, its logits 0."""

  classes: int

  @nn.compact
  def __call__(self, x, *, train=False):
    del train
    return jnp.zeros((len(x['inputs']), self.classes)), x


def epinet_on_hidden(case: Case) -> Converted:
  """`MLPEpinetWithPrior`: an epinet on features that are handed to it."""
  options, params = case.kwargs, case.params()
  classes = options['num_classes']
  dim = haiku.index_dim(params, 'train_epinet', classes)

  def convert(params):
    return {'head': haiku.projected_mlp(params, 'train_epinet', dim)}

  prior = haiku.projected_mlp(params, 'prior_epinet', dim)
  network = Epinet(
      base=Given(classes),
      features=['hidden'] + ['inputs'] * (not options.get('drop_inputs')),
      index_dim=dim,
      hiddens=haiku.hiddens(params, 'train_epinet/~/mlp/~/linear_'),
      prior_hiddens=haiku.hiddens(params, 'prior_epinet/~/mlp/~/linear_'),
      prior_scale=options.get('prior_scale', 1.0),
  )
  frozen = {'prior': {'params': prior}}
  variables = {'params': convert(params), 'frozen': frozen}
  x = {'inputs': case['in::x'], 'hidden': case['in::hidden']}
  return Converted(network, convert, variables, jax.tree.map(jnp.asarray, x))


def ensemble(case: Case) -> Converted:
  """Ensembles of MLPs, of each of enn's kinds, with and without priors."""

  def convert(params):
    return {'member': haiku.members(params)}

  layers = haiku.members(case.params())
  *hidden, classes = haiku.widths(layers)
  is_einsum = any('ensemble_branch' in module for module in case.params())
  net = MLP(
      hidden,
      classes,
      case.kwargs.get('activation', 'relu'),
      # The einsum ensembles start there, and no others.
      case.kwargs.get('nonzero_bias', is_einsum),
  )
  network = Ensemble(net, size=len(layers['layer_0']['bias']))
  variables = {'params': convert(case.params())}
  if prior := hidden_members(case):
    scale = case.kwargs.get('prior_scale', 1.0)
    random = ScaledPrior(EnsemblePrior(net.clone()), scale)
    network = WithPrior(network, {'member': random})
    of_members = {'params': {'member': prior}}
    variables['frozen'] = {'prior_member': of_members}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def epinet_with_additive_prior(case: Case) -> Converted:
  """An epinet of an MLP, and MLPs that its index combines linearly."""
  plain, prior = epinet_of_mlp(case), hidden_members(case)
  assert prior is not None
  *hidden, classes = haiku.widths(prior)
  scale = case.kwargs['add_prior_scale']
  random = ScaledPrior(EnsemblePrior(MLP(hidden, classes)), scale)
  own = {'prior_ensemble': {'params': {'member': prior}}}
  return dataclasses.replace(
      plain,
      network=WithPrior(plain.network, {'ensemble': random}),
      variables={
          **plain.variables, 'frozen': plain.variables['frozen'] | own
      },
  )


def bert_head(case: Case) -> Converted:
  """`make_head_enn`: an epinet of the inputs alone, an ensemble, dropout."""
  agent = case.kwargs['agent']
  if agent == 'ensemble':
    return ensemble(case)
  if agent == 'dropout':
    return mlp_dropout(case, dropout_input=False)
  assert agent == 'epinet'
  layers = len(haiku.hiddens(case.params(), 'base_mlp/~/linear_')) + 1
  return epinet_of_mlp(case, expose_layers=[False] * layers)


def exposed_mlp(case: Case) -> Converted:
  """`ExposedMLP`: a conventional network; its index is a key it ignores."""

  def convert(params):
    return {'base': haiku.mlp(params, 'exposed_mlp')}

  params = convert(case.params())
  *hidden, classes = haiku.widths(params['base'])
  network = Deterministic(base=MLP(hidden, classes))
  variables = {'params': params}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def with_additive_prior(case: Case) -> Converted:
  """`NetworkWithAdditivePrior` of two MLPs, one of which is the prior."""

  def convert(params):
    return {'base': haiku.mlp(params, 'train')}

  prior = haiku.mlp(case.params(), 'prior')
  params = convert(case.params())
  net, beside = (
      MLP(haiku.widths(layers)[:-1], haiku.widths(layers)[-1])
      for layers in (params['base'], prior)
  )
  priors = {'beside': ScaledPrior(beside, case.kwargs.get('prior_scale', 1.0))}
  variables = {
      'params': params, 'frozen': {'prior_beside': {'params': prior}}
  }
  x = jnp.asarray(case['in::x'])
  network = WithPrior(Deterministic(base=net), priors)
  return Converted(network, convert, variables, x)


def projected(case: Case) -> Converted:
  """`ProjectedMLP` by itself."""
  options, params, module = case.kwargs, case.params(), 'projected_mlp'
  dim = haiku.index_dim(params, module, options['final_out'])
  concat = options.get('concat_index', True)

  def convert(params):
    return haiku.projected_mlp(params, module, dim, concat)

  sizes = haiku.hiddens(params, f'{module}/~/mlp/~/linear_')
  network = ProjectedMLP(sizes, options['final_out'], concat)
  variables = {'params': convert(params)}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))
