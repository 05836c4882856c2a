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

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.checkpoints import haiku, haiku_resnet
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests.golden import cases, convert
from tests.golden.convert import normed
from tests.golden.test_golden_priors import CIFAR, conv_prior_of

# To 1e-5 of the largest entry: where many layers cancel, so much is rounding.
assert_close = functools.partial(cases.assert_close, floor=1.0)
# ResNet-50 by the statistics of a batch, see `test_golden_rounding`.
ROUNDING = 1e-4

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

def rtol_of(name: str) -> float:
  """ROUNDING for ResNet-50 in training, RTOL for all others."""
  return ROUNDING if name.endswith('50_train') else cases.RTOL


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
  member = ResNet(classes, haiku_resnet.depth_of(params))
  of = 'hidden' if options['is_training'] else 'average'
  variables = {
      'params': {'member': haiku_resnet.params(member, params)},
      'batch_stats': {
          'member': haiku_resnet.statistics(member, case.state(), of)
      },
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


@all_but_slow('50_train', '50_eval')
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
  rtol = rtol_of(name)
  assert_close(out.preds, case['out::preds'], rtol)
  if case.kwargs['is_training']:
    recorded = haiku_resnet.statistics(
        network.member, case.tree('new_state'), 'hidden'
    )
    chosen = int(case['z'][0])
    jax.tree.map(
        lambda got, expected: assert_close(
            got[chosen], expected[chosen], rtol
        ),
        updated['batch_stats']['member'],
        recorded,
    )


def recorded_features(case: cases.Case) -> dict[str, np.ndarray]:
  """The features of a case by our names, `[N, ...]`."""
  names, prefix = {'final_out': 'pooled'}, 'out::extra::'
  found = {
      k.removeprefix(prefix): v
      for k, v in case.arrays.items()
      if k.startswith(prefix)
  }
  return {
      names.get(k, k.replace('hidden', 'block')): v for k, v in found.items()
  }


def features_of(
    name: str, member: int, dtype: Any = jnp.float32
) -> dict[str, jax.Array]:
  """What one member of a case computes."""
  case, network, variables, of_batch = resnet(name)
  own = jax.tree.map(
      lambda leaf: jnp.asarray(leaf[member], dtype),
      {k: v['member'] for k, v in variables.items()},
  )
  apply = functools.partial(
      network.member.apply, train=of_batch, mutable=['batch_stats']
  )
  x = jnp.asarray(np.float32(case['in::x']), dtype)
  (_, features), _ = jax.jit(apply)(own, x)
  return features


@all_but_slow('50_train', '50_eval')
def test_golden_features(name):
  case, network, *_ = resnet(name)
  recorded = recorded_features(case)
  for n, chosen in enumerate(case['z'][: network.size]):
    features = features_of(name, chosen)
    for feature, value in recorded.items():
      assert_close(features[feature], value[n], rtol_of(name))


@pytest.mark.slow
def test_golden_rounding():
  """What is left of ResNet-50 in training is rounding, here as in enn.

  Its last batch norms divide by the deviation of 16 numbers, and what the
  layers before have rounded becomes 30 times as large. The recorded features
  are as close to those of our network in float64 as ours in float32 are: to
  5e-5 of the largest entry, and 3e-5 between the two. (With the optimizations
  of XLA that the suite does without, by jaxlib 0.10.2, the two are equal bit
  for bit.)
  """
  name = 'networks/resnet50_train'
  case, *_ = resnet(name)
  with jax.enable_x64(True):
    exact = features_of(name, 0, jnp.float64)
  rounded, recorded = features_of(name, 0), recorded_features(case)
  assert {'block_0', 'block_15', 'pooled'} <= recorded.keys()
  for feature, value in recorded.items():
    assert exact[feature].dtype == np.float64
    deviation, of_recorded = (
        np.linalg.norm(found - np.asarray(exact[feature]))
        for found in (np.asarray(rounded[feature]), value[0])
    )
    assert of_recorded < 1.5 * deviation
    assert of_recorded < 1e-4 * np.linalg.norm(value)


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
  recorded = haiku_resnet.params(network.member, case.tree('grads'))
  jax.tree.map(assert_close, got, {'member': recorded})


def test_drawn_prior_is_the_recorded_one():
  """As JAX draws today: so the case was recorded."""
  case = cases.load_case('priors/cifar_conv_prior')
  prior, recorded = conv_prior_of(case.hidden('0'))
  drawn = haiku_resnet.draw_conv_prior(prior, case['in::x'], 5, 4, legacy=False)
  jax.tree.map(cases.assert_close, drawn, recorded)


# Of the configs in `enn/checkpoints`, where a case leaves them out.
CONFIGS = {
    'cifar10': {'epi_prior_scale': 4.0, 'add_prior_scale': 0.0},
    'cifar100': {'epi_prior_scale': 0.5, 'add_prior_scale': 0.5},
    'imagenet': {'base_logits_scale': 1.25, 'add_prior_scale': 1.0},
}


def config_of(case: cases.Case) -> dict[str, Any]:
  """The options of an epinet on a ResNet."""
  name = re.search(r'cifar100?|imagenet', case.name + case.meta['ctor'])
  options = {'freeze_base': True, 'base_logits_scale': 1.0}
  options |= {'epi_prior_scale': 1.0, **CONFIGS[name[0]], **case.kwargs}
  if 'prior_fn_ctor=None' in case.meta['ctor']:
    options['add_prior_scale'] = 0.0
  return options


def epinet(case: cases.Case) -> convert.Converted:
  """An epinet on a ResNet."""
  options, params = config_of(case), case.params()
  hidden = {tag: case.hidden(tag) for tag in case.hidden_tags()}
  frozen = options['freeze_base']
  base = hidden['base'] if frozen else {**params, **case.state()}
  base = {k: v for k, v in base.items() if k.startswith('res_net/')}
  classes = base['res_net/~/final_fc']['b'].shape[-1]
  net = ResNet(classes, haiku_resnet.depth_of(base))
  statistics = one(haiku_resnet.statistics(net, base))
  dim = convert.index_dim(params, 'train_epinet', classes)

  def converted(params):
    own = {'head': haiku.projected_mlp(params, 'train_epinet', dim)}
    if not frozen:
      own['base'] = one(haiku_resnet.params(net, params))
    return own

  matched = {'params': haiku.projected_mlp(params, 'prior_epinet', dim)}
  variables = {'params': converted(params), 'frozen': {'prior': matched}}
  if frozen:
    variables['frozen']['base'] = {
        'params': one(haiku_resnet.params(net, base)), 'batch_stats': statistics
    }
  else:
    variables['batch_stats'] = {'base': statistics}
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
    if recorded:
      prior, weights = conv_prior_of(recorded[0])
    else:
      prior = ConvPrior(**CIFAR)
      weights = haiku_resnet.draw_conv_prior(
          prior, case['in::x'], classes, dim, legacy=False
      )
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
    assert_close(getattr(out, kind), case[f'out::{kind}'])
  if recorded := case.tree('grads'):
    z = case['z'][0]
    got = jax.jit(
        jax.grad(lambda p: (found.apply(p, z).preds * case['in::cot']).mean())
    )(found.variables['params'])
    jax.tree.map(assert_close, got, found.convert(recorded))


def test_golden_ensemble_with_batch_norm():
  case = cases.load_case('networks/ensemble_with_state_bn')
  network = Ensemble(normed.Normed(2), 3)
  x, z = jnp.asarray(case['in::x'], jnp.float32), case['z']
  statistics = {'member': normed.statistics(case.state())}

  def apply(params, index):
    return network.apply(
        {'params': params, 'batch_stats': statistics},
        x,
        index,
        train=True,
        mutable=['batch_stats'],
    )

  params = {'member': normed.members(case.params())}
  at = functools.partial(apply, params)
  indices = jax.nn.one_hot(z, 3)
  out, updated = over_index(at, indices, out_axes=(0, None))
  cases.assert_close(out.preds, case['out::array'])
  jax.tree.map(
      lambda got, expected: cases.assert_close(got[z[0]], expected[z[0]]),
      updated['batch_stats']['member'],
      normed.statistics(case.tree('new_state')),
  )
  got = jax.grad(
      lambda p: (apply(p, indices[0])[0].preds * case['in::cot']).mean()
  )(params)
  expected = {'member': normed.members(case.tree('grads'))}
  cases.assert_gradients_close(got, expected)


def test_golden_sampler_of_a_checkpoint():
  """What enn's samplers return: logits over the tuned temperature."""
  case = cases.load_case('checkpoints/epinet_sampler_cifar100')
  found = epinet(case)
  indices = jnp.asarray(case['ret::indices'])
  apply = functools.partial(found.apply, found.variables['params'])
  preds = jax.jit(lambda z: over_index(apply, z).preds)(indices)
  logits = preds / case.kwargs['tuned_eval_temperature']
  assert_close(logits, case['ret::logits'])
  mean = jax.nn.softmax(case['ret::logits']).mean(0)
  # enn's `average_logits` are of mean probabilities.
  cases.assert_close(mean, jax.nn.softmax(case['ret::average_logits']))
  key = jax.random.wrap_key_data(jnp.asarray(case['in::key'], jnp.uint32))
  cases.assert_close(
      found.network.indexer.sample(key, len(indices)), indices
  )
