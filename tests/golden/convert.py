"""From enn's Haiku networks to ours: modules, and parameters or gradients.

Where the two name the same function differently, this is the dictionary:

- An ensemble's index is an integer in enn, and one-hot here.
- enn concatenates z in front of an epinet's inputs and emits C·D outputs; here
  z enters the first layer beside them (`IndexDense`), and the last kernel is
  contracted with z first (`IndexContract`).
- enn's prior epinet sits among the trainable parameters with a gradient of
  zero; here it is in the collection `frozen`, and there is no gradient.
- enn keeps members on the last axis in its einsum ensembles, on the first in
  its other ones; here it is always the first.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.layers import ProjectedMLP
from tests.golden.cases import Case, Params


@dataclasses.dataclass(frozen=True)
class Converted:
  """One of enn's networks as one of ours.

  Attributes:
    network: the module.
    convert: turns Haiku parameters, or their gradients, into our `params`.
    variables: `params` converted, and `frozen`.
    x: inputs.
  """

  network: nn.Module
  convert: Callable[[Params], Any]
  variables: dict[str, Any]
  x: Any

  def apply(self, params: Any, index: jax.Array) -> Output:
    """The output at one index, ours."""
    variables = {**self.variables, 'params': params}
    out = self.network.apply(variables, self.x, index)
    return out if isinstance(out, Output) else Output(out)

  def index(self, z: np.ndarray) -> jax.Array:
    """One or many of enn's indices as ours."""
    if isinstance(self.network, Ensemble):
      return jax.nn.one_hot(z, self.network.size)
    return jnp.asarray(z)


def dense(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {'kernel': p['w'], 'bias': p['b']}


def mlp(params: Params, module: str) -> dict[str, Any]:
  """An MLP, or K of them with a leading axis K."""
  layers = _layers(params, f'{module}/~/linear_')
  return {f'layer_{i}': dense(p) for i, p in enumerate(layers)}


def einsum_mlp(params: Params, module: str = 'ensemble_mlp') -> dict[str, Any]:
  """K MLPs that enn keeps on the last axis."""
  later = len([m for m in params if m.startswith(f'{module}/~/linear')])
  modules = ['ensemble_branch', 'linear'][: later + 1]
  modules += [f'linear_{i}' for i in range(1, later)]
  return {
      f'layer_{i}': {
          k: np.moveaxis(v, -1, 0)
          for k, v in dense(params[f'{module}/~/{name}']).items()
      }
      for i, name in enumerate(modules)
  }


def projected_mlp(
    params: Params, module: str, dim: int, concat_index: bool = True
) -> dict[str, Any]:
  """A network of the index, with its first and its last layer split up."""
  *hiddens, last = _layers(params, f'{module}/~/mlp/~/linear_')
  tree = {f'layer_{i}': dense(p) for i, p in enumerate(hiddens)}
  if hiddens and concat_index:
    first = hiddens[0]
    tree['layer_0'] = {
        'z': {'kernel': first['w'][:dim]},
        'h': {'kernel': first['w'][dim:], 'bias': first['b']},
    }
  tree['out'] = {
      'kernel': last['w'].reshape(len(last['w']), -1, dim),
      'bias': last['b'].reshape(-1, dim),
  }
  return tree


def hiddens(params: Params, prefix: str) -> tuple[int, ...]:
  """Widths of the hidden layers of an MLP."""
  return tuple(p['w'].shape[-1] for p in _layers(params, prefix)[:-1])


def outputs(params: Params, prefix: str) -> int:
  return _layers(params, prefix)[-1]['w'].shape[-1]


def _layers(params: Params, prefix: str) -> list[dict[str, np.ndarray]]:
  numbers = itertools.takewhile(
      lambda i: f'{prefix}{i}' in params, itertools.count()
  )
  return [params[f'{prefix}{i}'] for i in numbers]


def exposed(expose_layers: Sequence[bool] | None, hidden: int) -> list[str]:
  """Our names of the features that enn's `ExposedMLP` exposes."""
  layers = [f'hidden_{i}' for i in range(hidden)] + ['logits']
  chosen = [True] * len(layers) if expose_layers is None else expose_layers
  return ['inputs', *itertools.compress(layers, chosen)]


def epinet_of_mlp(case: Case) -> Converted:
  """`make_mlp_epinet`: a base MLP with an epinet on what it exposes."""
  options, params = case.kwargs, case.params()
  prefix = f'{options["name"]}_' if options.get('name') else ''
  base, head = f'{prefix}base_mlp/~/linear_', f'{prefix}train_epinet'
  dim = case['z' if 'z' in case else 'in::z'].shape[-1]
  widths, classes = hiddens(params, base), outputs(params, base)

  def convert(params):
    return {
        'base': mlp(params, f'{prefix}base_mlp'),
        'head': projected_mlp(params, head, dim),
    }

  prior = projected_mlp(params, f'{prefix}prior_epinet', dim)
  network = Epinet(
      base=MLP(widths, classes),
      classes=classes,
      features=exposed(options.get('expose_layers'), len(widths)),
      index_dim=dim,
      hiddens=hiddens(params, f'{head}/~/mlp/~/linear_'),
      prior_scale=options.get('prior_scale', 1.0),
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
  dim, classes = options['index_dim'], options['num_classes']

  def convert(params):
    return {'head': projected_mlp(params, 'train_epinet', dim)}

  prior = projected_mlp(params, 'prior_epinet', dim)
  network = Epinet(
      base=Given(classes),
      classes=classes,
      features=['hidden'] + ['inputs'] * (not options.get('drop_inputs')),
      index_dim=dim,
      hiddens=options['epinet_hiddens'],
      prior_hiddens=options.get('prior_epinet_hiddens'),
      prior_scale=options.get('prior_scale', 1.0),
  )
  frozen = {'prior': {'params': prior}}
  variables = {'params': convert(params), 'frozen': frozen}
  x = {'inputs': case['in::x'], 'hidden': case['in::hidden']}
  return Converted(network, convert, variables, jax.tree.map(jnp.asarray, x))


def ensemble(case: Case) -> Converted:
  """Ensembles of MLPs, of each of enn's kinds, with and without priors."""
  params, tags = case.params(), case.hidden_tags()
  if any(module.startswith('ensemble_mlp') for module in params):
    member = einsum_mlp
    priors = [einsum_mlp(case.hidden(tag)) for tag in tags]
    prior = priors[0] if priors else None
  else:

    def member(params):
      return mlp(params, 'mlp')

    priors = [member(case.hidden(tag)) for tag in tags]
    prior = jax.tree.map(lambda *p: np.stack(p), *priors) if priors else None

  layers = list(member(params).values())
  sizes = [layer['bias'].shape[-1] for layer in layers]
  net = MLP(sizes[:-1], sizes[-1], case.kwargs.get('activation', 'relu'))
  network = Ensemble(
      member=net,
      size=len(layers[0]['bias']),
      prior=None if prior is None else net.clone(),
      prior_scale=case.kwargs.get('prior_scale', 1.0),
  )

  def convert(params):
    return {'member': member(params)}

  variables = {'params': convert(params)}
  if prior is not None:
    variables['frozen'] = {'priors': {'params': prior}}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def exposed_mlp(case: Case) -> Converted:
  """`ExposedMLP`: a conventional network; its index is a key it ignores."""

  def convert(params):
    return {'base': mlp(params, 'exposed_mlp')}

  sizes = case.kwargs['output_sizes']
  network = Deterministic(base=MLP(sizes[:-1], sizes[-1]))
  variables = {'params': convert(case.params())}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def projected(case: Case) -> Converted:
  """`ProjectedMLP` by itself."""
  options = case.kwargs
  dim, concat = options['index_dim'], options.get('concat_index', True)

  def convert(params):
    return projected_mlp(params, 'projected_mlp', dim, concat)

  network = ProjectedMLP(options['hidden_sizes'], options['final_out'], concat)
  variables = {'params': convert(case.params())}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


# What was recorded -> how it is converted.
NETWORKS = {
    'enn.networks.ProjectedMLP': projected,
    'enn.networks.ExposedMLP': exposed_mlp,
    'enn.networks.epinet.make_mlp_epinet': epinet_of_mlp,
    'enn.networks.epinet.MLPEpinetWithPrior': epinet_on_hidden,
    'enn.networks.Ensemble': ensemble,
    'enn.networks.MLPEnsembleMatchedPrior': ensemble,
    'enn.networks.make_einsum_ensemble_mlp_enn': ensemble,
    'enn.networks.make_ensemble_mlp_with_prior_enn': ensemble,
}


def network_of_loss(case: Case) -> Converted:
  """The network a loss was recorded with: an epinet, or an ensemble."""
  kind = epinet_of_mlp if 'base_mlp/~/linear_0' in case.params() else ensemble
  return kind(case)
