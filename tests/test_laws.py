"""The laws every network keeps, over every file in `flax_enn/networks`.

The list is read from the folder: a new network is held to them because it is
there and ends with `example()`. (Padding is a law of evaluation, golden numbers
and configs have files of their own.)
"""

import functools
import importlib
import math
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import networks, sharding
from flax_enn.core import Batch, EpistemicNetwork
from flax_enn.losses import Bootstrap, L2Penalty, Objective, Xent
from flax_enn.sampling import over_index
from flax_enn.training.optimizer import create_optimizer
from flax_enn.training.state import create_train_state
from flax_enn.training.step import train_step

N = 8
PARTS = {'layers', 'frozen'}  # files that hold no network of their own
NETWORKS = [
    info.name
    for info in pkgutil.iter_modules(networks.__path__)
    if not info.ispkg and info.name not in PARTS
]
# data, index, fsdp. Two say most; the rest of them run in `make test-all`.
MESHES = [
    (4, 2, 1),
    (2, 2, 2),
    *(
        pytest.param(sizes, marks=pytest.mark.slow)
        for sizes in [
            (2, 1, 1), (1, 2, 1), (4, 1, 1), (2, 2, 1), (1, 4, 1), (1, 2, 2),
            (8, 1, 1), (2, 4, 1), (1, 8, 1), (1, 1, 8), (4, 1, 2), (1, 4, 2),
        ]
    ),
]  # fmt: skip


def example(name):
  module = importlib.import_module(f'flax_enn.networks.{name}')
  return module.example()


def a_batch(x, classes=3):
  size = len(x)
  return Batch(
      x=np.asarray(x),
      y=np.arange(size, dtype=np.int32) % classes,
      weight=np.ones(size, np.float32),
      id=np.arange(size, dtype=np.int32) + 1000,
      mask=np.ones(size, np.float32),
  )


def an_optimizer():
  return create_optimizer(
      {'name': 'sgd', 'learning_rate': 0.1, 'weight_decay': 1e-3}, 100
  )


@functools.cache
class Trained:
  """A network at its start on a mesh, with the step that trains it."""

  def __init__(self, name, sizes=(1, 1, 1), wide=False):
    self.network, x = example(name)
    devices = jax.devices()[: math.prod(sizes)]
    self.mesh = sharding.create_mesh(dict(zip(sharding.AXES, sizes)), devices)
    noise = Bootstrap(seed=3).bind(self.network.indexer)
    tx = an_optimizer()
    if wide:
      x = x.astype(jnp.float64)
    self.state = create_train_state(self.network, tx, 0, x, self.mesh)
    if wide:
      self.state = jax.tree.map(widened, self.state)
    self.batch = sharding.put_batch(a_batch(x), self.mesh)
    self.step = jax.jit(
        functools.partial(
            train_step,
            network=self.network,
            objectives={
                'data': Objective(Xent(), noise=(noise,)),
                'size': Objective(L2Penalty(1e-3)),
            },
            tx=tx,
            num_indices=N,
        )
    )

  def after(self, steps=1):
    """State and logs after some steps, as numpy arrays."""
    state, logs = self.state, {}
    with jax.set_mesh(self.mesh):
      for _ in range(steps):
        state, logs = self.step(state, self.batch)
    state = state.replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.asarray, (state, logs))


def widened(leaf):
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    return leaf.astype(jnp.float64)
  return leaf


def test_networks_are_found():
  assert {'epinet', 'ensemble', 'deterministic'} <= set(NETWORKS)


@pytest.mark.parametrize('name', NETWORKS)
def test_has_the_interface(name):
  network, x = example(name)
  assert isinstance(network, EpistemicNetwork)
  state = Trained(name).state
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  output = network.apply(state.variables, x, index)
  assert output.preds.shape[0] == len(x)
  assert output.preds.dtype == jnp.float32


def equations(jaxpr):
  """All equations of a jaxpr, those of inner ones too."""
  for equation in jaxpr.eqns:
    yield equation
    for value in equation.params.values():
      for inner in value if isinstance(value, (list, tuple)) else [value]:
        if hasattr(inner, 'jaxpr'):
          yield from equations(inner.jaxpr)
        elif hasattr(inner, 'eqns'):
          yield from equations(inner)


@pytest.mark.parametrize('name', NETWORKS)
def test_law_index_free(name):
  """The base's products carry no N, and none is wider than its head's."""
  network, x = example(name)
  variables = Trained(name).state.variables
  n = 37  # no other axis has this size
  indices = network.indexer.sample(jax.random.key(1), n)

  def work(indices):
    return over_index(lambda z: network.apply(variables, x, z).preds, indices)

  base = getattr(network, 'base', getattr(network, 'member', None))
  single = jax.make_jaxpr(lambda: base.init_with_output(jax.random.key(0), x))()
  kinds = ('dot_general', 'conv_general_dilated')
  in_base = sum(e.primitive.name in kinds for e in equations(single.jaxpr))
  found = [
      e
      for e in equations(jax.make_jaxpr(work)(indices).jaxpr)
      if e.primitive.name in kinds
  ]
  free = [e for e in found if all(n not in v.aval.shape for v in e.outvars)]
  assert in_base > 0
  assert len(free) >= in_base


@pytest.mark.parametrize('name', NETWORKS)
def test_law_frozen(name):
  """Training leaves `frozen` as it was, bit for bit, and gives it no slot."""
  run = Trained(name)
  state, _ = run.after(3)
  jax.tree.map(
      np.testing.assert_array_equal,
      state.collections.get('frozen', {}),
      run.state.collections.get('frozen', {}),
  )
  slots = jax.tree_util.tree_leaves_with_path(state.opt_state)
  assert not [p for p, _ in slots if 'frozen' in jax.tree_util.keystr(p)]
  moved = jax.tree.map(
      lambda a, b: np.any(a != b), state.params, run.state.params
  )
  assert all(jax.tree.leaves(moved)), 'a trained parameter did not move'


@pytest.mark.parametrize('name', NETWORKS)
def test_law_joint(name):
  """At one index f is a function of each example: permuted in, permuted out."""
  network, x = example(name)
  variables = Trained(name).state.variables
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  order = jax.random.permutation(jax.random.key(2), len(x))
  straight = network.apply(variables, x, index).preds
  permuted = network.apply(variables, x[order], index).preds
  np.testing.assert_allclose(permuted, straight[order], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('sizes', MESHES, ids=str)
@pytest.mark.parametrize('name', NETWORKS)
def test_law_devices(name, sizes):
  """One step is the same on any mesh, to rounding in float32."""
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      Trained(name, sizes).after(1),
      Trained(name).after(1),
  )


@pytest.mark.parametrize('sizes', MESHES, ids=str)
@pytest.mark.parametrize('name', NETWORKS)
def test_law_devices_over_many_steps(name, sizes):
  """Twenty steps in float64: rounding cannot hide a difference."""
  with jax.enable_x64(True):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
        Trained(name, sizes, wide=True).after(20),
        Trained(name, wide=True).after(20),
    )


@pytest.mark.parametrize('sizes', MESHES, ids=str)
@pytest.mark.parametrize('name', NETWORKS)
def test_law_priors(name, sizes):
  """What is drawn at the start does not depend on the mesh, bit for bit."""
  jax.tree.map(
      np.testing.assert_array_equal,
      Trained(name, sizes).state.variables,
      Trained(name).state.variables,
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_trained_members_lie_on_the_index_axis(name):
  """Every variable of a trained ensemble is split, frozen ones are whole."""
  state = Trained(name, (2, 4, 1)).state
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    keys = jax.tree_util.keystr(path)
    spec = leaf.sharding.spec
    if f"'{sharding.MEMBER}'" in keys and 'frozen' not in keys:
      assert spec and spec[0] == sharding.INDEX_AXIS, keys
    else:
      assert sharding.INDEX_AXIS not in jax.tree.leaves(tuple(spec)), keys
