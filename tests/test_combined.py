"""Heads on bases, with and without an index of the base."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.indexers import EnsembleIndexer, PrngIndexer
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.combined import Combined
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.with_prior import WithPrior

KEY = jax.random.key(5)
X = jax.random.normal(jax.random.key(0), (5, 3))
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
HEAD = Ensemble(MLP((), 2), 4)


def start(network, x=X):
  index = network.indexer.sample(KEY, 1)[0]
  return jax.jit(network.init)({'params': KEY}, x, index)['params'], index


def test_a_head_reads_a_feature_at_its_own_index():
  base = MLP((6,), 3)
  network = Combined(base, HEAD, 'hidden_0')
  assert network.indexer == EnsembleIndexer(4)
  params, z = start(network)
  features = base.apply({'params': params['base']}, X)[1]
  expected = HEAD.apply({'params': params['head']}, features['hidden_0'], z)
  close(network.apply({'params': params}, X, z).preds, expected.preds)


@pytest.mark.parametrize('stop_gradient', [False, True])
def test_the_base_learns_from_the_head_or_not(stop_gradient):
  network = Combined(MLP((6,), 3), HEAD, stop_gradient=stop_gradient)
  params, z = start(network)

  @jax.jit
  @jax.grad
  def gradient(params):
    return jnp.square(network.apply({'params': params}, X, z).preds).sum()

  moved = [np.any(leaf) for leaf in jax.tree.leaves(gradient(params)['base'])]
  assert all(moved) if not stop_gradient else not any(moved)


def test_a_base_with_an_index_gets_one_of_its_own():
  """One key for both: what each is given differs, as their draws must."""
  base, head = MLPDropout((6,), 3, 0.5), MLPDropout((6,), 3, 0.5)
  network = Combined(base, head)
  assert network.indexer == PrngIndexer()
  params, key = start(network)
  keys = [
      jax.random.fold_in(jax.random.fold_in(key, part), 0) for part in (0, 1)
  ]
  features = base.apply({'params': params['base']}, X, keys[0]).preds
  expected = head.apply({'params': params['head']}, features, keys[1]).preds
  close(network.apply({'params': params}, X, key).preds, expected)


def test_a_missing_feature_is_named():
  network = Combined(MLP((6,), 3), HEAD, 'hidden_1')
  with pytest.raises(ValueError, match=r"no feature 'hidden_1'; it has \['hid"):
    start(network)


@pytest.mark.parametrize('kind', [tuple, np.array])
def test_rescaled_inputs_are_centred(kind):
  net = Ensemble(MLP((), 2), 1)
  network = Rescaled(net, mean=kind([3.0, 0.0]), std=kind([1.0, 2.0]))
  x = jnp.array([[3.0, 4.0], [3.0, -2.0]])
  params, z = start(network, x)
  expected = net.apply(
      {'params': params['net']}, jnp.array([[0.0, 2.0], [0.0, -1.0]]), z
  )
  close(network.apply({'params': params}, x, z).preds, expected.preds)


@pytest.mark.parametrize('scale', [3.0, (3.0, 1.0), np.array([3.0, 1.0])])
def test_rescaled_outputs_each_have_a_factor(scale):
  net = WithPrior(Deterministic(MLP((), 2)), {'p': MLP((4,), 2)})
  x = jnp.ones((3, 2))
  network = Rescaled(net, scale=scale)
  out, variables = network.init_with_output(
      {'params': jax.random.key(0), 'frozen': jax.random.key(1)}, x, jnp.ones(1)
  )
  inner = {name: part['net'] for name, part in variables.items()}
  plain = net.apply(inner, x, jnp.ones(1))
  for part in ('train', 'prior', 'base'):
    expected = getattr(plain, part) * np.asarray(scale)
    assert np.abs(expected).min() > 0
    close(getattr(out, part), expected)


@pytest.mark.parametrize('std', [0.0, -1.0, (1.0, 0.0), np.nan, np.inf])
def test_a_std_that_nothing_is_divided_by_is_refused(std):
  with pytest.raises(ValueError, match=r'the `std` of Rescaled is .*above 0'):
    Rescaled(HEAD, std=std)


@pytest.mark.parametrize('field', ['mean', 'std'])
def test_rescaled_refuses_numbers_of_other_inputs(field):
  """Of one input and three numbers it would make three inputs."""
  network = Rescaled(Deterministic(MLP((), 2)), **{field: (1.0, 2.0, 3.0)})
  says = rf'`{field}` of Rescaled is \[3\] beside inputs \[5, 1\]'
  with pytest.raises(ValueError, match=says):
    network.init(jax.random.key(0), jnp.ones((5, 1)), jnp.ones(1))


def test_rescaled_refuses_tokens_and_other_outputs():
  key, net = jax.random.key(0), Deterministic(MLP((), 2))
  tokens = {'tokens': jnp.ones((3, 2), int)}
  with pytest.raises(ValueError, match=r'found inputs int.*`mean` at 0'):
    Rescaled(net, mean=1.0).init(key, tokens, jnp.ones(1))
  with pytest.raises(ValueError, match=r'has 3 numbers.* of 2 outputs'):
    Rescaled(net, scale=(1, 2, 3)).init(key, jnp.ones((3, 2)), jnp.ones(1))
