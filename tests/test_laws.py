"""The laws every network keeps, over every file in `flax_enn/networks`.

The list is read from the folder: a new network is held to them because it is
there and ends with `example()`, which says what of it is index-free. (Padding
and resuming have files of their own, and so have golden numbers and configs.)
"""

from collections.abc import Mapping
import dataclasses
import functools
import importlib
import math
import pkgutil
import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import build, kinds, networks, sharding
from flax_enn.core import Batch, EpistemicNetwork, Example
from flax_enn.likelihoods import Categorical
from flax_enn.losses import Bootstrap, L2Penalty, Objective, Xent
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.optimizer import create_optimizer
from flax_enn.sampling import over_index
from flax_enn.training.state import (
    abstract_state,
    create_train_state,
    init_state,
)
from flax_enn.training.step import train_step
from tests import slow

N = 8
PRODUCTS = ('dot_general', 'conv_general_dilated')
ONE = (1, 1, 1)  # device
MESH = (2, 2, 2)  # data, index, fsdp
MESHES = [
    (4, 2, 1), (2, 1, 1), (1, 2, 1), (4, 1, 1), (2, 2, 1), (1, 4, 1), (1, 2, 2),
    (8, 1, 1), (2, 4, 1), (1, 8, 1), (1, 1, 8), (4, 1, 2), (1, 4, 2),
]  # fmt: skip


def holds_a_network(name):
  """Whether a file of the folder defines one, and not only parts of them."""
  module = importlib.import_module(f'{networks.__name__}.{name}')
  return any(
      isinstance(value, type)
      and value.__module__ == module.__name__
      and kinds.NETWORK.accepts(value)
      for value in vars(module).values()
  )


NETWORKS = [
    info.name
    for info in pkgutil.iter_modules(networks.__path__)
    if not info.ispkg and holds_a_network(info.name)
]


def on_meshes():
  """Every network on MESH, and in `make test-all` on two others.

  Which ones goes round, so that each mesh is taken by several networks.
  """
  cases = []
  for i, name in enumerate(NETWORKS):
    cases.append(pytest.param(name, MESH, id=f'{name}-{MESH}'))
    for k in range(2):
      sizes = MESHES[(2 * i + k) % len(MESHES)]
      cases.append(slow(name, sizes, id=f'{name}-{sizes}'))
  return pytest.mark.parametrize('name, sizes', cases)


@functools.cache
def example(name) -> Example:
  module = importlib.import_module(f'{networks.__name__}.{name}')
  return Example(*module.example())


def mesh_of(sizes):
  devices = jax.devices()[: math.prod(sizes)]
  return sharding.create_mesh(dict(zip(sharding.AXES, sizes)), devices)


@functools.cache
def outputs(name) -> int:
  """C of a network."""
  network, x, _ = example(name)

  def train():
    key = jax.random.key(0)
    index = network.indexer.sample(key, 1)[0]
    rngs = {'params': key, 'frozen': key}
    return network.init_with_output(rngs, x, index)[0].train

  return jax.eval_shape(train).shape[-1]


def a_batch(x, classes):
  size = len(jax.tree.leaves(x)[0])
  return Batch(
      x=jax.tree.map(np.asarray, x),
      y=np.arange(size, dtype=np.int32) % classes,
      weight=np.ones(size, np.float32),
      id=np.arange(size, dtype=np.int32) + 1000,
      mask=np.ones(size, np.float32),
  )


def an_optimizer():
  return create_optimizer(
      {'name': 'sgd', 'learning_rate': 0.1, 'weight_decay': 1e-3}, 100
  )


def noise_of(indexer):
  """Bootstrapping, for indices that it is defined for."""
  index = indexer.sample(jax.random.key(0), 1)[0]
  known = (
      indexer.size is not None
      or jnp.issubdtype(index.dtype, jax.dtypes.prng_key)
      or indexer.standardize(index) is not None
  )
  return (Bootstrap(seed=3),) if known else ()


def stepper(name, tx, objectives, num_indices):
  return functools.partial(
      train_step,
      network=example(name).network,
      objectives=objectives,
      tx=tx,
      likelihood=Categorical(outputs(name)),
      num_examples=100,
      num_indices=num_indices,
  )


@functools.cache
class Trained:
  """A network at its start on a mesh, with the step that trains it."""

  def __init__(self, name, sizes=ONE, wide=False):
    self.network, x, _ = example(name)
    self.mesh = mesh_of(sizes)
    tx = an_optimizer()
    abstract = abstract_state(self.network, tx, x, self.mesh)
    if wide:
      # What is drawn at the start is the same: see the law of priors.
      self.state = jax.tree.map(widened, Trained(name).state, abstract)
      x = jax.tree.map(widened, x)
    else:
      self.state = create_train_state(self.network, tx, 0, x, abstract)
    self.batch = sharding.make_global_batch(
        a_batch(x, outputs(name)), sharding.batch_sharding(self.mesh)
    )
    objectives = {
        'data': Objective(Xent(), noise=noise_of(self.network.indexer)),
        'size': Objective(L2Penalty(1e-3)),
    }
    self.step = jax.jit(stepper(name, tx, objectives, N))

  def after(self, steps):
    """State and logs after some steps, as numpy arrays."""
    state, logs = self.state, {}
    with sharding.use_mesh(self.mesh):
      for _ in range(steps):
        state, logs = self.step(state, self.batch)
    state = state.replace(key=jax.random.key_data(state.key))
    return jax.tree.map(np.asarray, (state, logs))


@functools.cache
def trained_widely(name, sizes):
  """State and logs after twenty steps in float64, and before them."""
  Trained(name)  # draws its start in float32
  with jax.enable_x64(True):
    run = Trained(name, sizes, wide=True)
    return run.after(20), run.after(0)


def widened(leaf, where=None):
  """A leaf in float64 if it holds floats, where an abstract one says."""
  if jnp.issubdtype(leaf.dtype, jnp.floating):
    leaf = np.asarray(leaf, np.float64)
  return leaf if where is None else jax.device_put(leaf, where.sharding)


def test_networks_are_found():
  assert len(NETWORKS) > 1
  # A config finds each of them by the name of its file.
  for name in NETWORKS:
    build.find(name, kinds.NETWORK, 'config.network.name')


@pytest.mark.parametrize('name', NETWORKS)
def test_has_the_interface(name):
  network, x, _ = example(name)
  assert isinstance(network, EpistemicNetwork)
  state = Trained(name).state
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  output = jax.jit(network.apply)(state.variables, x, index)
  assert output.preds.shape[0] == len(jax.tree.leaves(x)[0])
  assert output.preds.dtype == jnp.float32
  for part in (output.prior, output.base):
    assert part is None or part.shape == output.train.shape


def equations(jaxpr):
  """All equations of a jaxpr, those of inner ones too."""
  return (equation for equation, _ in scoped_equations(jaxpr))


def scoped_equations(jaxpr, outer=''):
  """All equations, with the names of the modules that each stands in."""
  for equation in jaxpr.eqns:
    scope = f'{outer}/{equation.source_info.name_stack}'
    yield equation, words(scope)
    for value in equation.params.values():
      for inner in value if isinstance(value, (list, tuple)) else [value]:
        if hasattr(inner, 'jaxpr'):
          yield from scoped_equations(inner.jaxpr, scope)
        elif hasattr(inner, 'eqns'):
          yield from scoped_equations(inner, scope)


def words(scope):
  """`transpose(jvp(vmap(Epinet)))/base/layer_0` -> the names in it."""
  return set(re.findall(r'\w+', scope))


@functools.cache
def products(name, n, sizes=ONE):
  """Products in an evaluation at n indices and its gradient, with names."""
  network, x, _ = example(name)
  tx = an_optimizer()
  mesh = mesh_of(sizes)
  variables = abstract_state(network, tx, x, mesh).variables
  indices = network.indexer.sample(jax.random.key(1), n)

  def gradient(variables):
    def value(params):
      own = {**variables, 'params': params}
      at = over_index(lambda z: network.apply(own, x, z).preds, indices)
      return jnp.square(at).sum()

    return jax.value_and_grad(value)(variables['params'])

  with sharding.use_mesh(mesh):
    jaxpr = jax.make_jaxpr(gradient)(variables)
  return [
      (equation, names)
      for equation, names in scoped_equations(jaxpr.jaxpr)
      if equation.primitive.name in PRODUCTS
  ]


def index_free(name):
  """The modules that a network names as index-free; skips where none is."""
  found = set(example(name).index_free)
  if not found:
    pytest.skip(f'nothing in {name} is free of the index, by its example()')
  return found


@pytest.mark.parametrize('name', NETWORKS)
def test_law_index_free(name):
  """Products in what is index-free carry no N, forward or backward."""
  n = 37  # no other axis has this size
  free, found = index_free(name), products(name, n)
  for module in sorted(free):
    own = [equation for equation, names in found if module in names]
    assert own, f'{name} has no product in a module named {module!r}'
    for equation in own:
      for value in (*equation.invars, *equation.outvars):
        assert n not in value.aval.shape, (module, equation)


@pytest.fixture
def scopes_compiled_anew():
  """A cache of compiled programs may else return one with another's names."""
  option = 'jax_compilation_cache_include_metadata_in_key'
  jax.config.update(option, True)
  yield
  jax.config.update(option, False)


def flops_of_products(text, modules):
  """FLOPs of the products of a compiled program that stand in some modules.

  One that XLA has rewritten has no name any more, and counts too.
  """
  sizes = {
      name: [int(size) for size in shape.split(',') if size]
      for name, shape in re.findall(r'%?([\w.-]+)(?: =|:) \w+\[(.*?)\]', text)
  }
  total = 0
  for line in text.splitlines():
    product = re.search(
        r'%([\w.-]+) = \S+ (?:dot|convolution)\(%([\w.-]+), %([\w.-]+)\)', line
    )
    scope = re.search(r'op_name="(.*?)"', line)
    if not product or (scope and not modules & words(scope[1])):
      continue
    out, left, right = (sizes[operand] for operand in product.groups())
    if contracted := re.search(r'lhs_contracting_dims=\{(.*?)\}', line):
      each = math.prod(left[int(axis)] for axis in contracted[1].split(','))
    else:
      kernel = re.search(r'dim_labels=\w+_(\w+)->', line)[1]
      each = math.prod(right) // right[kernel.index('o')]
    total += 2 * math.prod(out) * each
  return total


def flops_on_one_device(name, sizes, modules):
  """FLOPs of a training step that one device does inside some modules."""
  network, x, _ = example(name)
  mesh, tx = mesh_of(sizes), optax.sgd(0.1)
  state = abstract_state(network, tx, x, mesh)
  where = sharding.batch_sharding(mesh)
  # Two indices and eight examples on a device: XLA rewrites products of one.
  batch = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          (64, *leaf.shape[1:]), leaf.dtype, sharding=where
      ),
      a_batch(x, outputs(name)),
  )
  step = stepper(name, tx, {'data': Objective(Xent())}, num_indices=16)
  with sharding.use_mesh(mesh):
    compiled = jax.jit(step).lower(state, batch).compile()
  return flops_of_products(compiled.as_text(), modules)


@pytest.mark.usefixtures('scopes_compiled_anew')
@pytest.mark.parametrize('name', NETWORKS)
def test_law_no_idle_replicas(name):
  """Growing the index axis does not repeat what is index-free.

  Repeated along an axis of 8, it would cost up to 8 times the FLOPs.
  """
  free = index_free(name)
  for equation, names in products(name, 37, (1, 8, 1)):
    groups = equation.params.get('feature_group_count', 1)
    channels = equation.invars[0].aval.shape[-1]
    if free & names and 1 < groups < channels:
      pytest.skip(
          f'XLA for CPUs does not split the grouped convolutions of {name}, on'
          ' any mesh: docs/scale.md'
      )
  by_data, by_index = (
      flops_on_one_device(name, sizes, free) for sizes in [(8, 1, 1), (1, 8, 1)]
  )
  assert by_data > 0
  assert by_index < 1.15 * by_data, by_index / by_data


@pytest.mark.parametrize('name', NETWORKS)
def test_law_frozen(name):
  """Training leaves `frozen` as it was, bit for bit, and gives it no slot."""
  (state, _), (start, _) = trained_widely(name, ONE)
  jax.tree.map(
      np.testing.assert_array_equal,
      state.collections.get('frozen', {}),
      start.collections.get('frozen', {}),
  )
  slots = jax.tree_util.tree_leaves_with_path(state.opt_state)
  assert not [p for p, _ in slots if 'frozen' in jax.tree_util.keystr(p)]
  moved = jax.tree.map(
      lambda a, b: np.any(a != b), state.params, start.params
  )
  assert all(jax.tree.leaves(moved)), 'a trained parameter did not move'


def in_half(part):
  """A module whose every `dtype`, its own and of its parts, is bfloat16."""
  if isinstance(part, Mapping):
    return {name: in_half(value) for name, value in part.items()}
  if not isinstance(part, (nn.Module, ScaledPrior)):
    return part
  names = {f.name for f in dataclasses.fields(part) if f.init}
  fields = {k: in_half(getattr(part, k)) for k in names - {'parent', 'name'}}
  if 'dtype' in fields:
    fields['dtype'] = jnp.bfloat16
  return type(part)(**fields)


@pytest.mark.slow
@pytest.mark.parametrize('computed', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name', NETWORKS)
def test_law_half_precision(name, computed):
  """AdamW with weight decay on bfloat16 inputs: finite, kept in float32.

  Once as the network is, and once with all that has a `dtype` in bfloat16.
  """
  network, x, _ = example(name)
  half = computed == 'bfloat16'
  if half and in_half(network) == network:
    pytest.skip(f'no part of {name} has a `dtype`')
  network = in_half(network) if half else network
  tx = create_optimizer(
      {'name': 'adamw', 'learning_rate': 1e-2, 'weight_decay': 1e-2}, 100
  )
  start = state = nn.unbox(init_state(network, tx, 0, x))
  x = jax.tree.map(
      lambda a: a.astype('bfloat16') if a.dtype == jnp.float32 else a, x
  )
  batch = a_batch(x, outputs(name))
  step = stepper(name, tx, {'data': Objective(Xent())}, N)
  step = functools.partial(step, network=network)
  traced = jax.jit(step).trace(state, batch)
  found = [
      equation.outvars[0].aval.dtype
      for equation in equations(traced.jaxpr.jaxpr)
      if equation.primitive.name in PRODUCTS
  ]
  assert not half or jnp.bfloat16 in found, 'no product is in bfloat16'
  step = traced.lower().compile()
  for _ in range(5):
    state, logs = step(state, batch)
  assert int(state.first_nonfinite_step) < 0 and np.isfinite(logs['loss'])
  jax.tree.map(
      lambda a, b: np.testing.assert_equal(a.dtype, b.dtype), state, start
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_law_joint(name):
  """At one index f is a function of each example: permuted in, permuted out."""
  network, x, _ = example(name)
  x = jax.tree.map(np.asarray, x)
  variables = Trained(name).state.variables
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  order = np.random.RandomState(2).permutation(len(jax.tree.leaves(x)[0]))
  apply = jax.jit(network.apply)
  straight = np.asarray(apply(variables, x, index).preds)
  permuted = jax.tree.map(lambda leaf: leaf[order], x)
  np.testing.assert_allclose(
      apply(variables, permuted, index).preds,
      straight[order],
      rtol=1e-5,
      atol=1e-6,
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', NETWORKS)
def test_law_devices(name):
  """One step is the same on a mesh, to rounding in float32."""
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      Trained(name, MESH).after(1),
      Trained(name).after(1),
  )


@pytest.mark.slow
@on_meshes()
def test_law_devices_over_many_steps(name, sizes):
  """Twenty steps are the same on any mesh.

  In float64, where rounding cannot hide a difference.
  """
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12),
      trained_widely(name, sizes)[0],
      trained_widely(name, ONE)[0],
  )


@on_meshes()
def test_law_priors(name, sizes):
  """What is drawn at the start does not depend on the mesh, bit for bit."""
  jax.tree.map(
      np.testing.assert_array_equal,
      Trained(name, sizes).state.variables,
      Trained(name).state.variables,
  )


@pytest.mark.parametrize('name', NETWORKS)
def test_trained_members_lie_on_the_index_axis(name):
  """Every variable of a trained ensemble is split, frozen ones are not."""
  network, x, _ = example(name)
  state = abstract_state(network, an_optimizer(), x, mesh_of((2, 4, 1)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    keys = jax.tree_util.keystr(path)
    spec = leaf.sharding.spec
    if f"'{sharding.MEMBER}'" in keys and 'frozen' not in keys:
      assert spec and sharding.INDEX_AXIS in spec[0], keys
    else:
      assert sharding.INDEX_AXIS not in jax.tree.leaves(tuple(spec)), keys
