"""Residual networks, their epinets and batch statistics against enn's.

enn keeps what it averages as sums from zero (`hidden`) and, for evaluation, as
means corrected for that start (`average`). Running statistics here are plain
averages, so that they are compared with `hidden` where a case trains, and start
from `average` where it does not. enn updates the statistics of the member at
hand; here every member sees every batch, and the one at hand is compared.
"""

import functools
import re
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import BatchNorm
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests.golden import cases, convert
from tests.golden.convert import dense, projected_mlp
from tests.golden.test_golden_priors import conv_prior

TRAIN, EVAL = 1e-3, 1e-4  # relative; two deep networks in float32

RESNETS = cases.names(
    'networks/resnet18_train resnet18_eval resnet18_eval_local_stats'
    ' resnet50_train resnet50_eval',
    ['enn.networks.EnsembleResNetENN'],
)
EPINETS = cases.names(
    'networks/resnet18_epinet_cifar10 resnet18_epinet_cifar100'
    ' resnet50_epinet_imagenet_64px_noprior',
    {
        meta['ctor']
        for name, meta in cases.manifest().items()
        if re.match(r'networks/resnet\d+_epinet', name)
    },
)

_PARTS = {
    'initial_conv': 'stem',
    'initial_batchnorm': 'stem_norm',
    'final_batchnorm': 'final_norm',
    'final_fc': 'out',
    'conv_shortcut': 'shortcut',
}


def ours(module: str) -> list[str]:
  """`res_net/~/res_block_v2_3/~/conv1` -> `['block_3', 'conv_1']`."""
  names = []
  for part in module.split('/')[1:]:
    if match := re.fullmatch(r'res_block_v\d(?:_(\d+))?', part):
      names.append(f'block_{match[1] or 0}')
    elif match := re.fullmatch(r'(conv|batchnorm_)(\d)', part):
      kind = {'conv': 'conv', 'batchnorm_': 'norm'}[match[1]]
      names.append(f'{kind}_{match[2]}')
    elif part != '~':
      names.append(_PARTS[part])
  return names


def put(tree: dict[str, Any], path: list[str], leaves: dict[str, Any]) -> None:
  for name in path:
    tree = tree.setdefault(name, {})
  tree.update(leaves)


def resnet_params(params: cases.Params, members: bool = True) -> dict[str, Any]:
  """Parameters of a ResNet, or of K of them with a leading axis K."""
  tree = {}
  for module, leaves in params.items():
    if 'scale' in leaves:
      norm = {'scale': leaves['scale'], 'bias': leaves['offset']}
      leaves = {k: _channels(v, members) for k, v in norm.items()}
    else:
      leaves = dense(leaves) if 'b' in leaves else {'kernel': leaves['w']}
    put(tree, ours(module), leaves)
  return tree


def resnet_statistics(
    state: cases.Params, of: str, members: bool = True
) -> dict[str, Any]:
  """Running statistics: enn's `hidden` or its `average`."""
  tree = {}
  for module, leaves in state.items():
    layer, kind = module.rsplit('/~/', 1)
    name = {'mean_ema': 'mean', 'var_ema': 'var'}[kind]
    put(tree, ours(layer), {name: _channels(leaves[of], members)})
  return tree


def _channels(leaf: np.ndarray, members: bool) -> np.ndarray:
  """`[K, 1, 1, 1, ch]` -> `[K, ch]`, `[1, 1, 1, ch]` -> `[ch]`."""
  return leaf.reshape((len(leaf), -1) if members else -1)


def one(tree: Any) -> Any:
  """The only member."""
  return jax.tree.map(lambda leaf: leaf[0], tree)


@functools.cache
def resnet(name: str) -> tuple[cases.Case, Ensemble, dict[str, Any], bool]:
  """The case, its network and variables, and whether it takes the batch's own
  statistics."""
  case = cases.load_case(name)
  options = case.kwargs
  of_batch = options['is_training'] or options.get('test_local_stats', False)
  params = case.params()
  size, classes = params['res_net/~/final_fc']['b'].shape
  member = ResNet(classes, depth_of(params))
  of = 'hidden' if options['is_training'] else 'average'
  variables = {
      'params': {'member': resnet_params(params)},
      'batch_stats': {'member': resnet_statistics(case.state(), of)},
  }
  return case, Ensemble(member, size), variables, of_batch


def all_but_slow(*slow):
  """The cases, the deep ones named here in `make test-all` alone."""
  return pytest.mark.parametrize(
      'name',
      [
          pytest.param(
              name, marks=[pytest.mark.slow] * name.endswith(tuple(slow))
          )
          for name in RESNETS
      ],
  )


@all_but_slow('50_train')
def test_golden_resnets(name):
  case, network, variables, of_batch = resnet(name)
  indices = jax.nn.one_hot(case['z'], network.size)
  x = jnp.asarray(case['in::x'])

  def at(index):
    return network.apply(
        variables, x, index, train=of_batch, mutable=['batch_stats']
    )

  out, updated = jax.jit(lambda z: over_index(at, z, out_axes=(0, None)))(
      indices
  )
  rtol = TRAIN if of_batch else EVAL
  cases.assert_close(out.preds, case['out::preds'], rtol)
  if case.kwargs['is_training']:
    recorded = resnet_statistics(case.tree('new_state'), 'hidden')
    chosen = int(case['z'][0])
    jax.tree.map(
        lambda got, expected: cases.assert_close(
            got[chosen], expected[chosen], rtol
        ),
        updated['batch_stats']['member'],
        recorded,
    )


@all_but_slow('50_train', '50_eval')
def test_golden_features(name):
  case, network, variables, of_batch = resnet(name)
  recorded = {
      k.removeprefix('out::extra::'): v
      for k, v in case.arrays.items()
      if k.startswith('out::extra::')
  }
  apply = jax.jit(
      functools.partial(
          network.member.apply, train=of_batch, mutable=['batch_stats']
      )
  )
  names = {'final_out': 'pooled'}
  for n, chosen in enumerate(case['z'][: network.size]):
    own = {
        k: jax.tree.map(lambda leaf, k=chosen: leaf[k], v['member'])
        for k, v in variables.items()
    }
    (_, features), _ = apply(own, jnp.asarray(case['in::x']))
    for name, value in recorded.items():
      feature = names.get(name) or name.replace('hidden', 'block')
      cases.assert_close(
          features[feature], value[n], TRAIN if of_batch else EVAL
      )


@pytest.mark.parametrize(
    'name', [n for n in RESNETS if n.endswith('18_train')]
)
def test_golden_resnet_gradients(name):
  case, network, variables, of_batch = resnet(name)
  index = jax.nn.one_hot(case['z'][0], network.size)

  def value(params):
    out, _ = network.apply(
        {**variables, 'params': params},
        jnp.asarray(case['in::x']),
        index,
        train=of_batch,
        mutable=['batch_stats'],
    )
    return (out.preds * case['in::cot']).mean()

  got = jax.jit(jax.grad(value))(variables['params'])
  recorded = {'member': resnet_params(case.tree('grads'))}
  jax.tree.map(functools.partial(cases.assert_close, rtol=TRAIN), got, recorded)


def drawn_cifar_prior(size: int, classes: int) -> cases.Params:
  """The conv prior that enn draws and does not store, from its seed 23.

  Haiku takes the second key of a sequence, one of its parts for each member,
  and from that one key for each layer.
  """
  layers = {
      'prior_conv': (5, 5, 3, 4),
      'prior_conv_1': (5, 5, 4, 8),
      'prior_conv_2': (5, 5, 8, 4),
      'prior/~/linear_0': (64, classes),
  }

  def member(key):
    params = {}
    for module, shape in layers.items():
      key, own = jax.random.split(key)
      draw = jax.random.truncated_normal(own, -2.0, 2.0, shape)
      kernel = draw / np.sqrt(np.prod(shape[:-1]))
      params[module] = {'w': kernel, 'b': jnp.zeros(shape[-1:])}
    return params

  key, _ = jax.random.split(jax.random.PRNGKey(23))
  _, key = jax.random.split(key)
  params = jax.vmap(member)(jax.random.split(key, size))
  return jax.tree.map(np.asarray, params)


def test_drawn_prior_is_the_recorded_one():
  case = cases.load_case('priors/cifar_conv_prior')
  recorded = case.hidden('0')
  jax.tree.map(cases.assert_close, drawn_cifar_prior(4, 5), recorded)


# Of the configs in `enn/checkpoints`, where a case leaves them out.
CONFIGS = {
    'cifar10': {'epi_prior_scale': 4.0, 'add_prior_scale': 0.0},
    'cifar100': {'epi_prior_scale': 0.5, 'add_prior_scale': 0.5},
    'imagenet': {'base_logits_scale': 1.25, 'add_prior_scale': 1.0},
}
# Depth by the version of the blocks and their number.
DEPTHS = {('v1', 6): 18, ('v2', 16): 50, ('v2', 33): 101}


def config_of(case: cases.Case) -> dict[str, Any]:
  """The options of an epinet on a ResNet."""
  name = re.search(r'cifar100?|imagenet', case.name + case.meta['ctor'])
  options = {'freeze_base': True, 'base_logits_scale': 1.0}
  options |= {'epi_prior_scale': 1.0, **CONFIGS[name[0]], **case.kwargs}
  if 'prior_fn_ctor=None' in case.meta['ctor']:
    options['add_prior_scale'] = 0.0
  return options


def depth_of(params: cases.Params) -> int:
  blocks = {m[0] for k in params if (m := re.search(r'res_block_v\d[^/]*', k))}
  (version,) = {re.search(r'v\d', block)[0] for block in blocks}
  return DEPTHS[version, len(blocks)]


def epinet(case: cases.Case) -> convert.Converted:
  """An epinet on a ResNet."""
  options, params = config_of(case), case.params()
  hidden = {tag: case.hidden(tag) for tag in case.hidden_tags()}
  frozen = options['freeze_base']
  base = hidden['base'] if frozen else {**params, **case.state()}
  base = {k: v for k, v in base.items() if k.startswith('res_net/')}
  kernels = {k: v for k, v in base.items() if 'ema' not in k}
  averages = {k: v for k, v in base.items() if 'ema' in k}
  statistics = one(resnet_statistics(averages, 'average'))
  classes = base['res_net/~/final_fc']['b'].shape[-1]
  dim = convert.index_dim(params, 'train_epinet', classes)

  def converted(params):
    own = {'head': projected_mlp(params, 'train_epinet', dim)}
    if not frozen:
      res_net = {k: v for k, v in params.items() if k.startswith('res_net/')}
      own['base'] = one(resnet_params(res_net))
    return own

  matched = {'params': projected_mlp(params, 'prior_epinet', dim)}
  variables = {'params': converted(params), 'frozen': {'prior': matched}}
  if frozen:
    variables['frozen']['base'] = {
        'params': one(resnet_params(kernels)), 'batch_stats': statistics
    }
  else:
    variables['batch_stats'] = {'base': statistics}
  net = ResNet(classes, depth_of(kernels))
  network = Epinet(
      base=Frozen(net) if frozen else net,
      features=('pooled',),
      index_dim=dim,
      hiddens=convert.hiddens(params, 'train_epinet/~/mlp/~/linear_'),
      prior_hiddens=convert.hiddens(params, 'prior_epinet/~/mlp/~/linear_'),
      base_scale=options['base_logits_scale'],
      prior_scale=options['epi_prior_scale'],
      stop_gradient=frozen,
  )
  if scale := options['add_prior_scale']:
    recorded = [v for tag, v in hidden.items() if tag != 'base']
    drawn = recorded or [drawn_cifar_prior(dim, classes)]
    prior, weights = conv_prior(drawn[0])
    network = WithPrior(network, {'image': ScaledPrior(prior, scale)})
    variables['frozen']['prior_image'] = {'params': weights}
  x = jnp.asarray(case['in::x'])
  return convert.Converted(network, converted, variables, x)


@pytest.mark.parametrize('name', EPINETS)
def test_golden_epinets_of_resnets(name):
  case = cases.load_case(name)
  found = epinet(case)
  out = jax.jit(lambda p, z: over_index(functools.partial(found.apply, p), z))(
      found.variables['params'], jnp.asarray(case['z'])
  )
  for kind in ('train', 'prior', 'preds'):
    cases.assert_close(getattr(out, kind), case[f'out::{kind}'], EVAL)
  if recorded := case.tree('grads'):
    z = case['z'][0]
    got = jax.jit(
        jax.grad(lambda p: (found.apply(p, z).preds * case['in::cot']).mean())
    )(found.variables['params'])
    jax.tree.map(
        functools.partial(cases.assert_close, rtol=EVAL),
        got,
        found.convert(recorded),
    )


class Member(nn.Module):
  """The recorded member: dense, batch norm, relu, dense."""

  @nn.compact
  def __call__(self, x, *, train=False):
    h = nn.Dense(4, name='linear')(x)
    h = nn.relu(BatchNorm(name='norm')(h, train=train))
    return nn.Dense(2, name='linear_1')(h), {}


def norm_members(params: cases.Params) -> dict[str, Any]:
  norm = params['batch_norm']
  return {
      'linear': dense(params['linear']),
      'norm': {
          'scale': _channels(norm['scale'], True),
          'bias': _channels(norm['offset'], True),
      },
      'linear_1': dense(params['linear_1']),
  }


def norm_statistics(state: cases.Params) -> dict[str, np.ndarray]:
  return {
      name: _channels(state[f'batch_norm/~/{name}_ema']['hidden'], True)
      for name in ('mean', 'var')
  }


def test_golden_ensemble_with_batch_norm():
  case = cases.load_case('networks/ensemble_with_state_bn')
  network = Ensemble(Member(), 3)
  x, z = jnp.asarray(case['in::x'], jnp.float32), case['z']
  statistics = {'member': {'norm': norm_statistics(case.state())}}

  def apply(params, index):
    return network.apply(
        {'params': params, 'batch_stats': statistics},
        x,
        index,
        train=True,
        mutable=['batch_stats'],
    )

  params = {'member': norm_members(case.params())}
  at = functools.partial(apply, params)
  indices = jax.nn.one_hot(z, 3)
  out, updated = over_index(at, indices, out_axes=(0, None))
  cases.assert_close(out.preds, case['out::array'])
  recorded = norm_statistics(case.tree('new_state'))
  for name, value in updated['batch_stats']['member']['norm'].items():
    cases.assert_close(value[z[0]], recorded[name][z[0]])
  got = jax.grad(
      lambda p: (apply(p, indices[0])[0].preds * case['in::cot']).mean()
  )(params)
  expected = {'member': norm_members(case.tree('grads'))}
  # A bias in front of the norm has no gradient, only rounding.
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
      got,
      expected,
  )
