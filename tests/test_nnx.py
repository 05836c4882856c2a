"""Networks as NNX modules, and NNX modules as bases."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flax_enn
from flax_enn import MLP, Epinet, over_index

X = np.random.RandomState(0).normal(size=(8, 4)).astype(np.float32)


def an_epinet(base):
  return Epinet(base, ('hidden_0',), index_dim=4, hiddens=(7,))


@pytest.mark.slow
def test_a_network_trains_as_an_nnx_module():
  network = an_epinet(MLP((6,), classes=3))
  model = flax_enn.as_nnx(network, X, nnx.Rngs(0))
  indices = network.indexer.sample(jax.random.key(1), 5)

  def outputs(model):
    return over_index(lambda index: model(X, index).preds, indices)

  def loss(model):
    return jnp.square(outputs(model) - 1).mean()

  def variables():
    return nnx.to_flat_state(nnx.state(model))

  before = {k: np.asarray(v.get_value()) for k, v in variables()}
  optimizer = nnx.Optimizer(model, optax.adamw(1e-2), wrt=nnx.Param)
  first = loss(model)
  for _ in range(3):
    gradients = nnx.grad(loss)(model)
    optimizer.update(model, gradients)
  assert loss(model) < first
  moved = {True: set(), False: set()}  # of parameters, of what is frozen
  for k, v in variables():
    same = np.array_equal(before[k], v.get_value())
    moved[isinstance(v, nnx.Param)].add(not same)
  assert moved == {True: {True}, False: {False}}


def test_a_network_is_the_same_function_as_an_nnx_module():
  network = an_epinet(MLP((6,), classes=3))
  model = flax_enn.as_nnx(network, X, nnx.Rngs(0))
  indices = network.indexer.sample(jax.random.key(1), 3)
  many = over_index(lambda index: model(X, index).preds, indices)
  for i in range(3):
    np.testing.assert_allclose(
        many[i], model(X, indices[i]).preds, rtol=1e-5, atol=1e-6
    )
  assert not np.allclose(many[0], many[1])


class Base(nnx.Module):
  """A backbone as a user of NNX writes it."""

  def __init__(self, features, classes, *, rngs):
    self.hidden = nnx.Linear(features, 6, rngs=rngs)
    self.out = nnx.Linear(6, classes, rngs=rngs)

  def __call__(self, x, *, train=False):
    h = nnx.relu(self.hidden(x))
    return self.out(h), {'hidden_0': h}


def test_an_nnx_module_is_a_base():
  network = an_epinet(nnx.bridge.to_linen(Base, 4, 3))
  keys = dict(zip(('params', 'frozen'), jax.random.split(jax.random.key(0))))
  indices = network.indexer.sample(jax.random.key(1), 5)
  variables = network.init(keys, X, indices[0])
  out = over_index(lambda index: network.apply(variables, X, index), indices)
  params = variables['params']['base']
  h = jax.nn.relu(X @ params['hidden']['kernel'] + params['hidden']['bias'])
  logits = h @ params['out']['kernel'] + params['out']['bias']
  np.testing.assert_allclose(out.base[0], logits, rtol=1e-5, atol=1e-6)
  assert out.preds.shape == (5, 8, 3)
