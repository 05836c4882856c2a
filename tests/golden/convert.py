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

Sizes and layout are those of a case's parameters, options are its arguments;
those that it leaves out are the defaults of enn's constructors.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.core import Output
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.layers import ProjectedMLP
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
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
    if not hasattr(self.network, 'indexer') or not self.network.indexer.size:
      return jnp.asarray(z)
    if np.issubdtype(z.dtype, np.unsignedinteger):  # a key that is ignored
      z = np.zeros(z.shape[:-1], np.int32)
    return jax.nn.one_hot(z, self.network.indexer.size)


def dense(p: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
  return {'kernel': p['w'], 'bias': p['b']}


def mlp(params: Params, module: str) -> dict[str, Any]:
  """An MLP, or K of them with a leading axis K."""
  layers = _layers(params, f'{module}/~/linear_')
  return {f'layer_{i}': dense(p) for i, p in enumerate(layers)}


def members(params: Params) -> dict[str, Any]:
  """K MLPs with a leading axis K, whatever enn's layout of them."""
  einsum = [m for m in params if m.endswith('/~/ensemble_branch')]
  if not einsum:
    (first,) = (m for m in params if m.endswith('/~/linear_0'))
    return mlp(params, first.removesuffix('/~/linear_0'))
  module = einsum[0].removesuffix('/~/ensemble_branch')
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


def hidden_members(case: Case) -> dict[str, Any] | None:
  """K MLPs that enn has closed over: all at once, or each by itself."""
  found = [members(case.hidden(tag)) for tag in case.hidden_tags()]
  if len(found) > 1:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)
  return found[0] if found else None


def widths(layers: dict[str, Any]) -> list[int]:
  """Outputs of each layer."""
  return [layer['bias'].shape[-1] for layer in layers.values()]


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


def index_dim(params: Params, module: str, classes: int) -> int:
  """D of a network of the index, which emits C·D outputs."""
  return outputs(params, f'{module}/~/mlp/~/linear_') // classes


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
  sizes, classes = hiddens(params, base), outputs(params, base)
  dim = index_dim(params, head, classes)

  def convert(params):
    return {
        'base': mlp(params, f'{prefix}base_mlp'),
        'head': projected_mlp(params, head, dim),
    }

  prior = projected_mlp(params, matched, dim)
  prior_scale = options.get('prior_scale', 1.0)
  network = Epinet(
      base=MLP(sizes, classes),
      features=exposed(
          options.get('expose_layers', expose_layers), len(sizes)
      ),
      index_dim=dim,
      hiddens=hiddens(params, f'{head}/~/mlp/~/linear_'),
      prior_hiddens=hiddens(params, f'{matched}/~/mlp/~/linear_'),
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
  dim = index_dim(params, 'train_epinet', classes)

  def convert(params):
    return {'head': projected_mlp(params, 'train_epinet', dim)}

  prior = projected_mlp(params, 'prior_epinet', dim)
  network = Epinet(
      base=Given(classes),
      features=['hidden'] + ['inputs'] * (not options.get('drop_inputs')),
      index_dim=dim,
      hiddens=hiddens(params, 'train_epinet/~/mlp/~/linear_'),
      prior_hiddens=hiddens(params, 'prior_epinet/~/mlp/~/linear_'),
      prior_scale=options.get('prior_scale', 1.0),
  )
  frozen = {'prior': {'params': prior}}
  variables = {'params': convert(params), 'frozen': frozen}
  x = {'inputs': case['in::x'], 'hidden': case['in::hidden']}
  return Converted(network, convert, variables, jax.tree.map(jnp.asarray, x))


def ensemble(case: Case) -> Converted:
  """Ensembles of MLPs, of each of enn's kinds, with and without priors."""

  def convert(params):
    return {'member': members(params)}

  layers = members(case.params())
  *hidden, classes = widths(layers)
  net = MLP(hidden, classes, case.kwargs.get('activation', 'relu'))
  network = Ensemble(net, size=len(layers['layer_0']['bias']))
  variables = {'params': convert(case.params())}
  if prior := hidden_members(case):
    scale = case.kwargs.get('prior_scale', 1.0)
    random = ScaledPrior(EnsemblePrior(net.clone()), scale)
    network = WithPrior(network, {'member': random})
    of_members = {'params': {'member': prior}}
    variables['frozen'] = {'prior_member': of_members}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def bert_head(case: Case) -> Converted:
  """`make_head_enn`: an epinet of the inputs alone, or an ensemble."""
  agent = case.kwargs['agent']
  if agent == 'ensemble':
    return ensemble(case)
  if agent == 'epinet':
    layers = len(hiddens(case.params(), 'base_mlp/~/linear_')) + 1
    return epinet_of_mlp(case, expose_layers=[False] * layers)
  pytest.skip(f'there is no network yet for the head {agent!r}')


def exposed_mlp(case: Case) -> Converted:
  """`ExposedMLP`: a conventional network; its index is a key it ignores."""

  def convert(params):
    return {'base': mlp(params, 'exposed_mlp')}

  params = convert(case.params())
  *hidden, classes = widths(params['base'])
  network = Deterministic(base=MLP(hidden, classes))
  variables = {'params': params}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


def projected(case: Case) -> Converted:
  """`ProjectedMLP` by itself."""
  options, params, module = case.kwargs, case.params(), 'projected_mlp'
  dim = index_dim(params, module, options['final_out'])
  concat = options.get('concat_index', True)

  def convert(params):
    return projected_mlp(params, module, dim, concat)

  sizes = hiddens(params, f'{module}/~/mlp/~/linear_')
  network = ProjectedMLP(sizes, options['final_out'], concat)
  variables = {'params': convert(params)}
  return Converted(network, convert, variables, jnp.asarray(case['in::x']))


# What was recorded -> how it is converted.
NETWORKS = {
    'enn.networks.ProjectedMLP': projected,
    'enn.networks.ExposedMLP': exposed_mlp,
    'enn.networks.epinet.make_mlp_epinet': epinet_of_mlp,
    'enn.networks.epinet.MLPEpinetWithPrior': epinet_on_hidden,
    'enn.networks.bert.make_head_enn': bert_head,
    'enn.networks.Ensemble': ensemble,
    'enn.networks.MLPEnsembleMatchedPrior': ensemble,
    'enn.networks.make_einsum_ensemble_mlp_enn': ensemble,
    'enn.networks.make_ensemble_mlp_with_prior_enn': ensemble,
}


def network_of_loss(case: Case) -> Converted:
  """The network a loss was recorded with: an epinet, or an ensemble."""
  is_epinet = 'base_mlp/~/linear_0' in case.params()
  kind = epinet_of_mlp if is_epinet else ensemble
  return kind(case)
