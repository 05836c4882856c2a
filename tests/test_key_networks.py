"""Networks whose index is a PRNG key."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.gaussian_noise import GaussianNoise
from flax_enn.networks.key_index import draw
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.sampling import over_index, reduce_over_index
from tests import thinned
from tests.test_laws import NETWORKS, equations, example

KEY = jax.random.key(7)
RNGS = {'params': jax.random.key(3), 'frozen': jax.random.key(4)}
X = jax.random.normal(jax.random.key(0), (5, 4))


def has_key_index(name):
  index = example(name).network.indexer.sample(KEY, 1)
  return jnp.issubdtype(index.dtype, jax.dtypes.prng_key)


KEYED = [name for name in NETWORKS if has_key_index(name)]


def start(network, x=X):
  index = network.indexer.sample(KEY, 1)[0]
  return jax.jit(network.init)(RNGS, x, index)


@pytest.mark.parametrize('name', thinned(KEYED))
def test_many_keys_are_a_loop_over_them(name):
  network, x, _ = example(name)
  variables = start(network, x)
  apply = jax.jit(lambda z: network.apply(variables, x, z).preds)
  keys = network.indexer.sample(KEY, 5)
  many = jax.jit(lambda zs: over_index(apply, zs))(keys)
  loop = [apply(key) for key in keys]
  np.testing.assert_allclose(many, loop, rtol=1e-5, atol=1e-6)
  assert np.ptp(many, axis=0).max() > 1e-3


@pytest.mark.parametrize('name', KEYED)
def test_an_array_is_not_a_key(name):
  network, x, _ = example(name)
  with pytest.raises(ValueError, match=r'float32\[3\], expected ONE typed key'):
    network.apply(start(network, x), x, jnp.zeros(3))


def test_draws_differ_by_number():
  noise = [draw(KEY, i, lambda k: jax.random.normal(k, (3,))) for i in (0, 1)]
  assert not np.any(noise[0] == noise[1])


def dropout_masks(key, widths, keep):
  """The masks that MLPDropout documents, one for each layer's inputs."""
  keys = [jax.random.fold_in(key, i) for i in range(len(widths))]
  masks = map(lambda k, w: jax.random.bernoulli(k, keep, (w,)), keys, widths)
  return list(map(np.asarray, masks))


@pytest.mark.parametrize('dropout_input', [True, False])
def test_one_mask_of_a_layer_for_all_examples(dropout_input):
  """Against a perceptron in numpy, with masks `[width]` for the whole batch."""
  network = MLPDropout((16, 16), 3, rate=0.4, dropout_input=dropout_input)
  variables = start(network)
  masks = dropout_masks(KEY, (4, 16, 16), 0.6)
  assert np.any(masks[1] != masks[2])  # though their layers are equally wide
  h = np.asarray(X) * (masks[0] / 0.6 if dropout_input else 1)
  for i in range(3):
    h = np.maximum(h, 0) * masks[i] / 0.6 if i else h
    layer = variables['params'][f'layer_{i}']
    h = h @ layer['kernel'] + layer['bias']
  out = network.apply(variables, X, KEY).train
  np.testing.assert_allclose(out, h, rtol=1e-4, atol=1e-5)


def test_dropout_keeps_the_mean():
  """What a linear network computes, averaged over keys, is without dropout."""
  network = MLPDropout((), 3, rate=0.3)
  variables = start(network)
  keys = network.indexer.sample(KEY, 8000)
  apply = jax.jit(lambda z: network.apply(variables, X, z).train)
  layer = variables['params']['layer_0']
  np.testing.assert_allclose(
      over_index(apply, keys).mean(0),
      X @ layer['kernel'] + layer['bias'],
      atol=0.08,
  )


def test_dropout_refuses_a_rate_of_one():
  with pytest.raises(ValueError, match=r'`rate` of MLPDropout is 1\.0'):
    MLPDropout((3,), 2, rate=1.0).init(RNGS, X, KEY)


BAYES = BayesByBackprop(MLP((16, 16, 16), 3))


def test_weights_are_gaussian_and_independent():
  """Every weight has its mean and scale; leaves of equal shape differ."""
  n, network = 2000, BayesByBackprop(MLP((4, 4, 4), 2))
  params = start(network)['params']
  rho = jax.tree.map(lambda leaf: leaf + 3.0, params['rho'])
  own = {'params': {**params, 'rho': rho}}
  keys = network.indexer.sample(KEY, n)

  @jax.jit
  def noise(keys):
    generated = over_index(
        lambda z: network.apply(own, X, z).extra['generated'], keys
    )
    return jax.tree.map(
        lambda drawn, mean, rho: (drawn - mean) / nn.softplus(rho),
        generated,
        params['mean'],
        rho,
    )

  found = jax.tree.map(np.asarray, noise(keys))
  for leaf in jax.tree.leaves(found):
    assert np.abs(leaf.mean(0)).max() < 5 / np.sqrt(n)
    np.testing.assert_allclose(leaf.std(0), 1, atol=0.1)
  assert not np.any(found['layer_1']['kernel'] == found['layer_2']['kernel'])


@pytest.mark.slow
def test_weights_start_where_the_base_does():
  params = start(BAYES)['params']
  base = BAYES.base.init(jax.random.key(0), X)['params']
  assert jax.tree.structure(params['mean']) == jax.tree.structure(base)
  scales = [nn.softplus(rho) for rho in jax.tree.leaves(params['rho'])]
  np.testing.assert_allclose(np.hstack([*map(np.ravel, scales)]), 0.01, 1e-5)


def largest(jaxpr):
  return max(v.aval.size for e in equations(jaxpr) for v in e.outvars)


@pytest.mark.parametrize('gradient', [False, True])
def test_no_array_of_all_weights_at_all_indices(gradient):
  """What is drawn at N indices is one leaf after the other."""
  n = 41
  params = start(BAYES)['params']
  keys = BAYES.indexer.sample(KEY, n)

  def value(params):
    own = {'params': params}
    out = over_index(lambda z: BAYES.apply(own, X, z).preds, keys)
    return jnp.square(out).sum()

  fn = jax.grad(value) if gradient else value
  jaxpr = jax.make_jaxpr(fn)(params).jaxpr
  leaves = [leaf.size for leaf in jax.tree.leaves(params['mean'])]
  assert sum(leaves) > 2 * max(leaves)
  assert largest(jaxpr) <= n * max(leaves)


def test_chunks_of_indices_hold_the_weights_of_a_chunk():
  params = start(BAYES)['params']
  keys = BAYES.indexer.sample(KEY, 40)

  def mean(params):
    return reduce_over_index(
        lambda z: BAYES.apply({'params': params}, X, z).preds,
        keys,
        init=jnp.zeros((5, 3)),
        reduce=lambda carry, preds: carry + preds.sum(0) / 40,
        chunk=4,
    )

  jaxpr = jax.make_jaxpr(mean)(params).jaxpr
  leaves = [leaf.size for leaf in jax.tree.leaves(params['mean'])]
  assert largest(jaxpr) <= 4 * max(leaves)


class WithStream(nn.Module):
  """A backbone that draws from the step's stream in training."""

  hiddens: Sequence[int] = (6,)

  @nn.compact
  def __call__(self, x, *, train=False):
    h = nn.Dropout(0.5, deterministic=not train)(nn.Dense(20)(x))
    return nn.Dense(3)(h), {}


def test_a_base_has_the_streams_of_the_step():
  network = BayesByBackprop(WithStream())
  variables = start(network)

  @jax.jit
  def value(key):
    rngs = {'dropout': key}
    return network.apply(variables, X, KEY, train=True, rngs=rngs).train

  outs = [value(key) for key in jax.random.split(KEY)]
  assert np.any(outs[0] != outs[1])


def test_noise_of_any_base_with_dense_layers():
  """By hand: the product of the last layer, plus its own draw."""
  base = ConvNet(classes=3, channels=(2,), hidden=4)
  x = jax.random.normal(KEY, (5, 6, 6, 1))
  network = GaussianNoise(base, init_scale=0.5)
  variables = start(network, x)
  scales = {
      name: parameters['scale'].shape
      for name, parameters in variables['params'].items()
      if name != 'base'
  }
  assert scales == {'noise_dense': (4,), 'noise_out': (3,)}
  silent = network.apply(variables, x, [jnp.zeros(4), jnp.zeros(3)]).preds
  noise = jnp.float32([1.0, -2.0, 0.0])
  noisy = network.apply(variables, x, [jnp.zeros(4), noise]).preds
  np.testing.assert_allclose(noisy - silent, [0.5 * noise] * 5, atol=1e-6)


def test_noise_needs_a_dense_layer():
  class Mean(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
      return x.mean(axis=1, keepdims=True), {}

  with pytest.raises(ValueError, match=r"layers is '\.\*', .* none of those"):
    start(GaussianNoise(Mean()))
