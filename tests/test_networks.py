"""Epinets, ensembles and bases against sums of their parts."""

import contextlib
import functools
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.networks import ensemble as ensembles
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index, reduce_over_index
from tests import slow
from tests.test_laws import PRODUCTS, equations, mesh_of
from tests.test_layers import (
    IMAGES,
    B,
    C,
    D,
    K,
    X,
    Z,
    assert_trees_close,
    close,
    initialised,
    numpy_mlp,
    plain_projected_mlp,
)

# The epinet.

BASE = MLP((7, 6), C)


def an_epinet(**fields):
  fields = {'features': ('inputs', 'hidden_1'), 'hiddens': (8,), **fields}
  return Epinet(BASE, index_dim=D, **fields)


def parts(network, variables):
  """Logits of the base, and phi, from the base's variables."""
  params = {'params': variables['params']['base']}
  logits, features = BASE.apply(params, X)
  phi = jnp.concatenate([features[name] for name in network.features], -1)
  return logits, phi


@pytest.mark.parametrize(
    'features, base_scale',
    [
        (('inputs', 'hidden_1'), 1.0),
        (('hidden_1', 'inputs'), 0.25),
        (('logits',), 0.0),
        (('logits',), 1.0),
    ],
)
def test_epinet_is_base_plus_head_plus_prior(features, base_scale):
  network = an_epinet(
      features=features, base_scale=base_scale, prior_scale=0.5
  )
  variables = initialised(network, X, Z)
  output = network.apply(variables, X, Z)
  logits, phi = parts(network, variables)
  mlp = functools.partial(plain_projected_mlp, (8,), True)
  close(
      output.train,
      base_scale * logits + mlp(variables['params']['head'], phi, Z),
  )
  prior = variables['frozen']['prior']['params']
  close(output.prior, 0.5 * mlp(prior, phi, Z))
  close(output.base, logits)
  close(output.preds, output.train + output.prior)


def test_epinet_without_prior_scale_has_no_prior():
  network = an_epinet(prior_scale=0.0)
  variables = initialised(network, X, Z)
  assert 'frozen' not in variables
  assert network.apply(variables, X, Z).prior is None


@pytest.mark.parametrize(
    ('prior_hiddens', 'expected'),
    [(None, {'layer_0', 'out'}), ((), {'out'}), ((3, 2), None)],
)
def test_prior_has_the_heads_form_unless_told(prior_hiddens, expected):
  network = an_epinet(prior_hiddens=prior_hiddens)
  variables = initialised(network, X, Z)
  prior = variables['frozen']['prior']['params']
  assert set(prior) == (expected or {'layer_0', 'layer_1', 'out'})
  hiddens = (8,) if prior_hiddens is None else prior_hiddens
  _, phi = parts(network, variables)
  found = network.apply(variables, X, Z).prior
  close(found, plain_projected_mlp(hiddens, True, prior, phi, Z))


def test_epinet_has_the_outputs_of_its_base():
  """`classes` may say so, and may not contradict it."""
  for classes in (None, C):
    network = an_epinet(classes=classes)
    output, _ = network.init_with_output(jax.random.key(0), X, Z)
    assert output.train.shape == (B, C)
  with pytest.raises(ValueError, match=r'base of Epinet has 3 outputs.* 5'):
    an_epinet(classes=5).init(jax.random.key(0), X, Z)


def gradients(network, variables, value):
  return jax.jit(jax.grad(lambda v: value(network.apply(v, X, Z))))(variables)


@pytest.mark.parametrize('stop_gradient', [True, False])
def test_stop_gradient_keeps_the_heads_loss_off_the_base(stop_gradient):
  network = an_epinet(base_scale=0.0, stop_gradient=stop_gradient)
  variables = initialised(network, X, Z)
  grads = gradients(network, variables, lambda out: (out.preds**2).sum())
  moved = jax.tree.map(lambda g: bool(np.any(g)), grads['params'])
  assert all(jax.tree.leaves(moved['head']))
  base = moved['base']
  assert not any(base.pop('layer_2').values())  # the logits are scaled away
  assert set(jax.tree.leaves(base)) == {not stop_gradient}


@pytest.mark.parametrize('stop_gradient', [slow(True), False])
def test_no_gradient_passes_through_the_prior(stop_gradient):
  """Neither to its weights, nor through its features to the base."""
  network = an_epinet(stop_gradient=stop_gradient)
  network = WithPrior(network, {'x': MLPPrior((5,))})
  variables = initialised(network, X, Z)
  weight = jnp.sin(jnp.arange(B * C, dtype=float)).reshape(B, C)
  of_preds = gradients(
      network, variables, lambda out: (out.preds * weight).sum()
  )
  assert not any(np.any(g) for g in jax.tree.leaves(of_preds['frozen']))
  of_train = gradients(
      network, variables, lambda out: (out.train * weight).sum()
  )
  assert_trees_close(of_preds['params'], of_train['params'])
  assert all(np.any(g) for g in jax.tree.leaves(of_preds['params']))


@pytest.mark.parametrize('features', [('hidden_7',), ()], ids=str)
def test_epinet_refuses_features_the_base_lacks(features):
  network = an_epinet(features=features)
  with pytest.raises(ValueError, match=r'features .* of Epinet') as raised:
    network.init(jax.random.key(0), X, Z)
  assert "'hidden_0', 'hidden_1', 'inputs', 'logits'" in str(raised.value)


@pytest.mark.parametrize('shape', [(D + 1,), (2, D), ()], ids=str)
@pytest.mark.parametrize(
    'network',
    [an_epinet(), Ensemble(BASE, K)],
    ids=lambda network: type(network).__name__,
)
def test_networks_refuse_an_index_of_another_shape(network, shape):
  with pytest.raises(ValueError, match='over_index') as raised:
    network.init(jax.random.key(0), X, jnp.zeros(shape))
  assert f'{shape}, expected ({D},)' in str(raised.value)


# The ensemble.

MEMBER = ConvNet(C, channels=(2, 3), hidden=5)


def members(tree):
  """K trees from one with a leading axis K."""
  return [jax.tree.map(lambda leaf, k=k: leaf[k], tree) for k in range(K)]


@pytest.fixture(scope='module')
def ensemble():
  network = Ensemble(MEMBER, K)
  return network, initialised(network, IMAGES, jnp.zeros(K))


def of_member(variables):
  """The members' own variables, as `MEMBER` has them."""
  own = {c: variables[c]['member'] for c in ('params', 'batch_stats')}
  return members(own)


def test_ensemble_at_a_one_hot_index_is_that_member(ensemble):
  network, variables = ensemble
  outputs = jax.jit(functools.partial(
      over_index, lambda z: network.apply(variables, IMAGES, z)
  ))(jnp.eye(K))
  assert outputs.prior is None
  apply = jax.jit(MEMBER.apply)
  for k, own in enumerate(of_member(variables)):
    close(outputs.train[k], apply(own, IMAGES)[0], atol=1e-5)


def test_members_start_apart():
  network = Ensemble(BASE, K)
  variables = jax.jit(network.init)(jax.random.key(0), X, jnp.zeros(K))
  kernels = variables['params']['member']['layer_0']['kernel']
  assert kernels.shape[0] == K
  assert len(np.unique(kernels)) == kernels.size


def test_ensemble_at_the_mean_index_is_the_mean(ensemble):
  network, variables = ensemble
  preds = over_index(
      lambda z: network.apply(variables, IMAGES, z).preds, jnp.eye(K)
  )
  mean = network.apply(variables, IMAGES, network.indexer.mean_index).preds
  close(mean, preds.mean(0), atol=1e-5)


def test_ensemble_updates_the_statistics_of_every_member(ensemble):
  network, variables = ensemble
  _, updated = network.apply(
      variables, IMAGES, jnp.eye(K)[1], train=True, mutable=['batch_stats']
  )
  found = members(updated['batch_stats']['member'])
  for own, statistics in zip(of_member(variables), found):
    _, expected = MEMBER.apply(
        own, IMAGES, train=True, mutable=['batch_stats']
    )
    assert_trees_close(statistics, expected['batch_stats'], atol=1e-5)


class Dropping(nn.Module):
  """A convolutional member with dropout, statistics and a frozen part."""

  @nn.compact
  def __call__(self, x, *, train=False):
    h = nn.Dropout(0.5, deterministic=not train)(nn.Conv(4, (3, 3))(x))
    own, _ = ConvNet(C, channels=(2, 3), hidden=5, name='net')(h, train=train)
    frozen, _ = Frozen(MEMBER.clone(), name='beside')(h)
    return own + frozen, {}


@functools.cache
def dropping():
  """An ensemble of them with a prior, and its variables."""
  prior = EnsemblePrior(MEMBER.clone())
  network = WithPrior(Ensemble(Dropping(), K), {'member': prior})
  return network, initialised(network, IMAGES, jnp.zeros(K))


DROPOUT = {'dropout': jax.random.key(5)}


def a_step(network, variables, *, remat, size=K, rngs=DROPOUT):
  """Outputs `[size, B, C]` in training, statistics, the gradient."""

  def at(params, index):
    return network.apply(
        {**variables, 'params': params}, IMAGES, index,
        train=True, mutable=['batch_stats'], rngs=rngs,
    )  # fmt: skip

  at = jax.checkpoint(at) if remat else at

  def loss(params):
    each = functools.partial(at, params)
    out, updated = over_index(each, jnp.eye(size), out_axes=(0, None))
    return jnp.square(out.preds - 1).mean(), (out, updated)

  return jax.grad(loss, has_aux=True)(variables['params'])


def vmapped(monkeypatch):
  monkeypatch.setattr(ensembles, 'MAX_UNROLLED', 0)


@pytest.mark.slow
def test_unrolled_members_are_the_vmapped_ones(monkeypatch):
  """Outputs, dropout, statistics and gradients, also rematerialised."""
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  network, variables = dropping()
  step = functools.partial(a_step, network)
  unrolled = jax.jit(functools.partial(step, remat=True))(variables)
  vmapped(monkeypatch)
  expected = jax.jit(functools.partial(step, remat=False))(variables)
  # Of gradients up to 16: 1e-6 of that.
  assert_trees_close(unrolled, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('frozen', [False, True])
def test_members_of_each_device_are_those_of_one(frozen, monkeypatch):
  """On a mesh that splits members: outputs, statistics and gradients."""
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  prior = {'member': EnsemblePrior(MEMBER.clone())} if frozen else {}
  network = WithPrior(Ensemble(MEMBER, 2 * K), prior)
  variables = initialised(network, IMAGES, jnp.zeros(2 * K))
  step = functools.partial(a_step, network, size=2 * K, rngs={})
  with sharding.use_mesh(mesh_of((2, 2, 2))):
    split = jax.jit(functools.partial(step, remat=True))
    assert 'shard_map' in str(jax.make_jaxpr(split)(variables))
    found = split(variables)
  vmapped(monkeypatch)
  expected = jax.jit(functools.partial(step, remat=False))(variables)
  assert_trees_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_members_that_draw_are_not_split(monkeypatch):
  """The numbers that they draw are the same on any mesh."""
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  network = Ensemble(Dropping(), K)
  variables = initialised(network, IMAGES, jnp.zeros(K))
  step = functools.partial(a_step, network, remat=False)
  expected = jax.jit(step)(variables)
  mesh = mesh_of((2, 2, 1))
  placed = jax.device_put(variables, sharding.state_shardings(variables, mesh))
  with sharding.use_mesh(mesh):
    assert 'shard_map' not in str(jax.make_jaxpr(step)(placed))
    assert_trees_close(jax.jit(step)(placed), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_members_that_all_devices_have_get_their_gradient(monkeypatch):
  """Grouped convolutions would get twice theirs from XLA's partitioner."""
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  network, variables = dropping()
  step = functools.partial(a_step, network, remat=False)
  expected = jax.jit(step)(variables)
  rules = sharding.create_rules({**sharding.DEFAULT_RULES, 'member': None})
  with sharding.use_mesh(mesh_of((2, 2, 1)), rules):
    assert_trees_close(jax.jit(step)(variables), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_unrolled_members_are_the_vmapped_ones_in_chunks(monkeypatch):
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  network, variables = dropping()

  def means(variables):
    return reduce_over_index(
        lambda z: network.apply(variables, IMAGES, z).preds,
        jnp.eye(K),
        init=jnp.zeros((len(IMAGES), C)),
        reduce=lambda total, found: total + found.sum(0),
        chunk=2,
    )

  unrolled = jax.jit(means)(variables)
  vmapped(monkeypatch)
  close(unrolled, jax.jit(lambda v: means(v))(variables), atol=1e-6)


def traced(member, size, mesh=None):
  """Whether a scan over all members is unrolled, and groups of convolutions."""
  network = Ensemble(member, size)
  x = X if isinstance(member, MLP) else IMAGES
  on = contextlib.nullcontext() if mesh is None else sharding.use_mesh(mesh)
  with on:
    variables = jax.eval_shape(
        network.init, jax.random.key(0), x, jnp.zeros(size)
    )
    jaxpr = jax.make_jaxpr(network.apply)(variables, x, jnp.zeros(size))
  found = list(equations(jaxpr.jaxpr))
  scans = [e.params for e in found if e.primitive.name == 'scan']
  return any(scan['unroll'] == scan['length'] == size for scan in scans), {
      e.params['feature_group_count']
      for e in found
      if e.primitive.name == 'conv_general_dilated'
  }


def test_members_are_unrolled_where_that_is_faster(monkeypatch):
  """Convolutional ones on CPUs, up to so many, unless devices share them."""
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  most = ensembles.MAX_UNROLLED
  unrolled, grouped = (True, {1}), (False, {1, 2})
  assert traced(MEMBER, 2) == unrolled
  assert traced(MEMBER, 2, mesh_of((2, 1, 1))) == unrolled
  assert traced(MEMBER, 2, mesh_of((1, 2, 1))) == (False, {1})  # each its own
  assert traced(MEMBER, 3, mesh_of((1, 2, 1))) == unrolled
  assert most >= 40 and traced(MEMBER, most) == unrolled
  assert not traced(MEMBER, most + 1)[0]
  assert traced(BASE, 2) == (False, set())
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 10**4)
  assert traced(MEMBER, 2) == grouped
  monkeypatch.setattr(ensembles, 'MIN_UNROLLED', 0)
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  assert traced(MEMBER, 2) == grouped


@pytest.mark.slow
def test_a_broken_member_leaves_the_others_alone():
  network = Ensemble(BASE, K)
  variables = initialised(network, X, jnp.zeros(K))
  broken = jax.tree.map(lambda leaf: leaf.at[2].set(jnp.nan), variables)

  @jax.jit
  def run(variables):
    def loss(variables, index):
      out = network.apply(variables, X, index).preds
      return (out**2).sum(), out

    return over_index(
        lambda z: jax.grad(loss, has_aux=True)(variables, z), jnp.eye(K)
    )

  grads, preds = run(broken)
  expected_grads, expected = run(variables)
  others = jnp.array([0, 1, 3])
  close(preds[others], expected[others])
  assert jnp.isnan(preds[2]).all()
  # Of the loss at each index but the third, to the members but the third.
  pick = jnp.ix_(others, others)
  assert_trees_close(
      jax.tree.map(lambda leaf: leaf[pick], grads),
      jax.tree.map(lambda leaf: leaf[pick], expected_grads),
  )


def test_deterministic_is_its_base_at_any_index():
  network = Deterministic(BASE)
  variables = initialised(network, X, jax.random.key(0))
  for index in network.indexer.sample(jax.random.key(1), 2):
    output = network.apply(variables, X, index)
    expected, _ = numpy_mlp(variables['params']['base'], X)
    close(output.preds, expected)
    close(output.base, expected)
    assert output.prior is None


# Mixed precision.

FLOAT32 = {jnp.dtype('float32')}


def conv(dtype):
  return ConvNet(C, channels=(2, 3), hidden=5, dtype=dtype)


def mixed_epinet(dtype):
  epinet = an_epinet(hiddens=(16, 8), dtype=dtype).clone(
      base=MLP((16, 16), C, dtype=dtype)
  )
  return WithPrior(epinet, {'x': MLPPrior((5,), dtype=dtype)})


def mixed_ensemble(dtype):
  prior = EnsemblePrior(conv(dtype))
  return WithPrior(Ensemble(conv(dtype), K), {'member': prior})


# Networks whose every part computes in a dtype, their inputs, and how many of
# their products contract a finished basis with the index: two for each basis,
# the second for what is not finite in it.
MIXED = {
    'base': (lambda dtype: Deterministic(conv(dtype)), IMAGES, 0),
    'members': (mixed_ensemble, IMAGES, 4),
    'head': (mixed_epinet, X, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', MIXED)
def test_mixed_precision_computes_in_bfloat16_and_keeps_float32(case):
  create, x, contractions = MIXED[case]
  exact, network = create(None), create('bfloat16')  # a name, as in a config
  index = network.indexer.sample(jax.random.key(0), 1)[0]
  rngs = {'params': jax.random.key(3), 'frozen': jax.random.key(4)}
  variables = jax.jit(network.init)(rngs, x, index)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == FLOAT32
  jax.tree.map(
      np.testing.assert_array_equal,
      variables,
      jax.jit(exact.init)(rngs, x, index),
  )

  def run(network):
    def value(params):
      apply = functools.partial(network.apply, mutable=['batch_stats'])
      output, updated = apply(
          {**variables, 'params': params}, x, index, train=True
      )
      loss = jnp.square(output.preds - 1).mean()
      return loss, (output, updated)

    return value, jax.jit(jax.grad(value, has_aux=True))(variables['params'])

  value, (grads, (output, updated)) = run(network)
  _, (exact_grads, (exact_output, _)) = run(exact)
  results = jax.tree.leaves((grads, output, updated))
  assert {leaf.dtype for leaf in results} == FLOAT32
  # A bfloat16 has 8 bits: 0.4% in each of some four layers.
  scale = float(np.abs(exact_output.preds).max())
  close(output.preds, exact_output.preds, rtol=0, atol=0.03 * scale)
  assert np.abs(output.preds - exact_output.preds).max() > 1e-6 * scale
  norm, error = (
      math.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(tree)))
      for tree in (
          exact_grads,
          jax.tree.map(jnp.subtract, grads, exact_grads),
      )
  )
  assert error < 0.1 * norm

  # Every product with a kernel is one of bfloat16s.
  jaxpr = jax.make_jaxpr(value)(variables['params'])
  products = [
      e for e in equations(jaxpr.jaxpr) if e.primitive.name in PRODUCTS
  ]
  low = [e for e in products if e.outvars[0].aval.dtype == jnp.bfloat16]
  assert len(products) - len(low) == contractions
  assert len(low) >= 4
