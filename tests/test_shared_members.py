"""Members that share most of their weights are the networks that they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import build, kinds
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.lenet5 import LeNet5
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.batch_ensemble import BatchEnsemble
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.lora_ensemble import LoraEnsemble
from flax_enn.sampling import over_index
from tests import slow
from tests.test_bert import TINY, texts

K = 3
SCALE, RANK = 6.0, 2


def init(network, x):
  rngs = {'params': jax.random.key(0), 'frozen': jax.random.key(1)}
  variables = jax.jit(network.init)(rngs, x, jnp.ones(K))
  keys = iter(jax.random.split(jax.random.key(2), 100))
  # Away from where they begin: zeros would hide what they multiply.
  return jax.tree.map(
      lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape),
      variables,
  )


def outputs(network, variables, x):
  return jax.jit(
      lambda v, z: over_index(lambda i: network.apply(v, x, i).preds, z)
  )(variables, jnp.eye(K))


def batch_member(layer, factors, k):
  """The kernel W ∘ r s' and the bias of a member."""
  r, s, bias = (factors[name][k] for name in ('r', 's', 'bias'))
  kernel = layer['kernel'] * r[..., :, None] * s
  return {'kernel': kernel, 'bias': layer['bias'] * s + bias}


def lora_member(layer, factors, k):
  a, b = factors['a'][k], factors['b'][k]
  kernel = layer['kernel'] + SCALE / RANK * a @ b
  return {'kernel': kernel, 'bias': layer['bias']}


BASES = {
    'mlp': (MLP(hiddens=(6, 5), classes=2), (4,)),
    'lenet5': (LeNet5(2, channels=(2, 3), hidden=4), (8, 8, 1)),
}


@pytest.mark.parametrize('name', ['mlp', slow('lenet5')])
@pytest.mark.parametrize('layers', [slow('.*'), 'out|layer_2'])
def test_batch_ensemble_has_the_explicit_kernels(name, layers):
  base, shape = BASES[name]
  x = jax.random.normal(jax.random.key(3), (4, *shape))
  network = BatchEnsemble(base, K, layers)
  variables = init(network, x)
  found = outputs(network, variables, x)
  _check(found, base, variables['params'], 'rank_one_', batch_member, x)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('layers', [slow('.*'), 'layer_[12]'])
def test_lora_ensemble_has_the_explicit_kernels(frozen, layers):
  base, shape = BASES['mlp']
  x = jax.random.normal(jax.random.key(3), (4, *shape))
  network = LoraEnsemble(
      Frozen(base) if frozen else base, K, RANK, SCALE, layers
  )
  variables = init(network, x)
  params = variables['params']
  if frozen:
    assert 'base' not in params
    params = {**params, 'base': variables['frozen']['base']['params']}
  found = outputs(network, variables, x)
  _check(found, base, params, 'lora_', lora_member, x)


def _check(found, base, params, prefix, member, x):
  """Each output is that of the base, at the parameters of the member."""
  adapted = [name for name in params if name.startswith(prefix)]
  assert adapted
  for k in range(K):
    own = dict(params['base'])
    for name in adapted:
      layer = name.removeprefix(prefix)
      own[layer] = member(own[layer], params[name], k)
    expected, _ = base.apply({'params': own}, x)
    np.testing.assert_allclose(found[k], expected, rtol=1e-4, atol=1e-5)
  assert np.abs(found[0] - found[1]).max() > 1e-3


def test_lora_members_begin_as_the_base():
  base, shape = BASES['mlp']
  x = jax.random.normal(jax.random.key(3), (4, *shape))
  network = LoraEnsemble(base, K)
  variables = network.init(jax.random.key(0), x, jnp.ones(K))
  expected, _ = base.apply({'params': variables['params']['base']}, x)
  found = outputs(network, variables, x)
  np.testing.assert_allclose(found, jnp.stack([expected] * K), rtol=1e-6)


@pytest.mark.slow
def test_lora_of_attention_alone():
  config = {
      'name': 'lora_ensemble',
      'size': K,
      'rank': 2,
      'layers': r'.*(query|value)',
      'base': {'name': 'bert', **TINY, 'frozen': True},
  }
  network = build.build(config, kinds.NETWORK, 'config.network', 3)
  variables = init(network, texts())
  assert set(variables['params']) == {
      f'lora_layer_{i}_{name}' for i in (0, 1) for name in ('query', 'value')
  }
  found = outputs(network, variables, texts())
  assert np.abs(found[0] - found[1]).max() > 1e-4


def test_a_layer_that_is_not_there_is_named():
  network = BatchEnsemble(BASES['mlp'][0], K, 'dense_0')
  with pytest.raises(ValueError, match=r"'dense_0'.*'layer_0', 'layer_1'"):
    network.init(jax.random.key(0), jnp.ones((2, 4)), jnp.ones(K))


def test_batch_statistics_of_members_are_refused():
  """They would depend on the index; those before the members do not."""
  network = BatchEnsemble(ConvNet(2, channels=(2,), hidden=3), K)
  x = jnp.ones((4, 4, 4, 1))
  rngs = {'params': jax.random.key(0), 'frozen': jax.random.key(1)}

  def train(network):
    def step(variables, z):
      options = {'train': True, 'mutable': ['batch_stats']}
      return network.apply(variables, x, z, **options)

    variables = jax.eval_shape(network.init, rngs, x, jnp.ones(K))
    return jax.eval_shape(
        lambda variables: over_index(
            lambda z: step(variables, z), jnp.eye(K), out_axes=(0, None)
        ),
        variables,
    )

  with pytest.raises(ValueError, match=r'`layers` to layers behind all batch'):
    train(network)
  _, updated = train(network.clone(layers='out'))
  assert 'batch_stats' in updated
  train(network.clone(base=Frozen(network.base)))
