"""Priors beside any network: where their variables lie, and what they add."""

import functools
import inspect

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.core import Output
from flax_enn.indexers import PrngIndexer
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.layers import contract
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.independent_layers_prior import (
    IndependentLayersPrior,
)
from flax_enn.networks.priors.index_mlp_prior import IndexMLPPrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.sampling import over_index
from tests import slow, thinned
from tests.test_laws import NETWORKS, PRODUCTS, equations, example
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
)

RNGS = {'params': jax.random.key(3), 'frozen': jax.random.key(4)}
NET = Epinet(MLP((7, 6), C), ('inputs', 'hidden_1'), index_dim=D, hiddens=(8,))
PLAIN = NET.clone(prior_scale=0.0)  # without a prior of its own


class Line(nn.Module):
  """A prior of any inputs, a pytree too, that only asks for C."""

  @nn.compact
  def __call__(self, x, classes):
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(x)]
    return nn.Dense(classes)(jnp.concatenate(leaves, axis=1))


class OfIndex(nn.Module):
  """A prior that is no linear function of the index."""

  @nn.compact
  def __call__(self, x, index, classes):
    return jnp.tanh(nn.Dense(classes)(x) * index.sum())


@pytest.mark.parametrize('name', thinned(NETWORKS, every=6))
def test_a_network_stays_as_it_is_beside_a_prior(name):
  """Its variables, their paths and draws, and its outputs: bit for bit."""
  network, x, _ = example(name)
  wrapped = WithPrior(network, {'beside': Line()})
  assert wrapped.indexer == network.indexer
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  alone = jax.jit(network.init)(RNGS, x, index)
  variables = dict(jax.jit(wrapped.init)(RNGS, x, index))
  frozen = dict(variables.get('frozen', {}))
  prior = frozen.pop('prior_beside')
  own = {**variables, 'frozen': frozen}
  if 'frozen' not in alone:
    del own['frozen']
  assert jax.tree.structure(own) == jax.tree.structure(dict(alone))
  jax.tree.map(np.testing.assert_array_equal, own, dict(alone))
  expected = network.apply(alone, x, index)
  output = wrapped.apply(variables, x, index)
  np.testing.assert_array_equal(output.train, expected.train)
  term = Line().apply(prior, x, expected.train.shape[1])
  of_network = 0 if expected.prior is None else expected.prior
  close(output.prior, of_network + term)
  jax.tree.map(np.testing.assert_array_equal, output.base, expected.base)


def test_a_network_updates_its_statistics_beside_a_prior():
  network = Deterministic(ConvNet(C, channels=(2,), hidden=3))
  wrapped = WithPrior(network, {'beside': ConvNet(C, (2,), hidden=3)})
  variables = initialised(wrapped, IMAGES, jnp.ones(1))
  own = {c: variables[c] for c in ('params', 'batch_stats')}
  found, expected = (
      net.apply(given, IMAGES, jnp.ones(1), train=True, mutable=['batch_stats'])
      for net, given in [(wrapped, variables), (network, own)]
  )
  jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])
  np.testing.assert_array_equal(found[0].train, expected[0].train)


def test_linen_still_clones_into_a_scope():
  """The paths rest on two arguments of `clone` that Linen keeps to itself.

  If this fails after an update, see how `nn.share_scope` or its successor puts
  a module into its parent's scope; the test above says what must hold.
  """
  known = inspect.signature(nn.Module.clone).parameters
  assert {'_deep_clone', '_reset_names'} <= set(known)


# Each kind of prior: what it is given, and what the sum should be.


def basis(variables):
  return contract(MLPPrior((5,)).apply(variables, X, C, D), Z)


def backbone(variables):
  return MLP((5,), C).apply(variables, X)[0]


KINDS = {
    'basis': (MLPPrior((5,)), basis),
    'index-free': (Line(), lambda v: Line().apply(v, X, C)),
    'backbone': (MLP((5,), C), backbone),
    'of the index': (OfIndex(), lambda v: OfIndex().apply(v, X, Z, C)),
    'network': (NET, lambda v: NET.apply(v, X, Z).preds),
}


@pytest.mark.parametrize(
    'kind, scale',
    [
        *((kind, 1.0) for kind in KINDS),
        slow('basis', 0.25),
        slow('basis', (0.0, 2.0, -1.0)),
        slow('backbone', (0.0, 2.0, -1.0)),
        ('network', 0.25),
    ],
    ids=str,
)
def test_prior_is_what_its_signature_says(kind, scale):
  net, expected = KINDS[kind]
  prior = net if scale == 1.0 else ScaledPrior(net, scale)
  network = WithPrior(PLAIN, {'x': prior})
  variables = initialised(network, X, Z)
  assert set(variables['frozen']) == {'prior_x'}
  output = network.apply(variables, X, Z)
  term = expected(variables['frozen']['prior_x'])
  close(output.prior, jnp.asarray(scale) * term, atol=1e-5)
  close(output.preds, output.train + output.prior)


@pytest.mark.parametrize('kind', KINDS)
def test_only_what_names_the_index_runs_for_every_one(kind):
  n = 37  # no other axis has this size
  net, _ = KINDS[kind]
  network = WithPrior(Silent(), {'x': net})
  variables = network.init(RNGS, X, Z)

  def preds(indices):
    return over_index(lambda z: network.apply(variables, X, z).preds, indices)

  jaxpr = jax.make_jaxpr(preds)(jnp.ones((n, D)))
  for_every_one = [
      any(n in v.aval.shape for v in e.outvars)
      for e in equations(jaxpr.jaxpr)
      if e.primitive.name in PRODUCTS
  ]
  assert for_every_one
  # A basis has two products that contract it with the index; the first layer of
  # an epinet's head and that of `OfIndex` are free of it.
  expected = {'basis': 2, 'network': 8}.get(kind, 0)
  assert sum(for_every_one) == expected


class Silent(nn.Module):
  """A network of zeros, so that what is left is the prior."""

  indexer = NET.indexer

  @nn.compact
  def __call__(self, x, index, *, train=False):
    del index, train
    return Output(jnp.zeros((len(x), C)))


def test_priors_are_added_by_name():
  """Whatever their order; a name, not a place, decides what is drawn."""
  net = MLPPrior((5,), scale=0.5)
  network = WithPrior(NET, {'b': net, 'a': ScaledPrior(Line(), 2.0)})
  turned = WithPrior(NET, {'a': ScaledPrior(Line(), 2.0), 'b': net})
  variables = network.init(RNGS, X, Z)
  jax.tree.map(
      np.testing.assert_array_equal, variables, turned.init(RNGS, X, Z)
  )
  frozen = variables['frozen']
  assert set(frozen) == {'prior', 'prior_a', 'prior_b'}
  matched = NET.apply(
      {'params': variables['params'], 'frozen': {'prior': frozen['prior']}},
      X,
      Z,
  ).prior
  a = 2 * Line().apply(frozen['prior_a'], X, C)
  b = contract(net.apply(frozen['prior_b'], X, C, D), Z)
  close(network.apply(variables, X, Z).prior, matched + a + b)
  twins = WithPrior(NET, {'a': net, 'b': net}).init(RNGS, X, Z)['frozen']
  kernels = [twins[f'prior_{n}']['params']['kernel_0'] for n in 'ab']
  assert (kernels[0] != kernels[1]).any()


def test_priors_around_priors_are_those_of_one():
  a, b = MLPPrior((5,)), ScaledPrior(Line(), 2.0)
  nested = WithPrior(WithPrior(WithPrior(NET, {'b': b}), {}), {'a': a})
  flat = WithPrior(NET, {'a': a, 'b': b})
  assert nested == flat and nested.indexer == NET.indexer
  assert_trees_equal = functools.partial(
      jax.tree.map, np.testing.assert_array_equal
  )
  variables = flat.init(RNGS, X, Z)
  assert_trees_equal(nested.init(RNGS, X, Z), variables)
  assert_trees_equal(
      nested.apply(variables, X, Z), flat.apply(variables, X, Z)
  )


def test_priors_around_priors_need_other_names():
  inner = WithPrior(NET, {'a': Line(), 'b': Line()})
  says = r"both named \['a'\], expected names of their own; rename one"
  with pytest.raises(ValueError, match=says):
    WithPrior(inner, {'a': MLPPrior((5,)), 'c': Line()})


def test_a_subclass_is_not_taken_apart():
  class Own(WithPrior):
    pass

  with pytest.raises(ValueError, match='WithPrior is a Own, a subclass'):
    WithPrior(Own(NET, {'a': Line()}), {'b': Line()})


def test_a_basis_is_linear_in_the_index():
  network = WithPrior(PLAIN, {'x': MLPPrior((5,))})
  variables = initialised(network, X, Z)

  def prior(index):
    return network.apply(variables, X, index).prior

  other = jnp.arange(4.0)
  close(prior(2 * Z - other), 2 * prior(Z) - prior(other), atol=1e-5)


MEMBER = ConvNet(C, channels=(2, 3), hidden=5)


def test_each_member_has_a_prior_of_its_own():
  prior = ScaledPrior(EnsemblePrior(MEMBER), 0.5)
  network = WithPrior(Ensemble(MEMBER, K), {'member': prior})
  variables = initialised(network, IMAGES, jnp.zeros(K))
  outputs = jax.jit(functools.partial(
      over_index, lambda z: network.apply(variables, IMAGES, z)
  ))(jnp.eye(K))
  apply = jax.jit(MEMBER.apply)
  frozen = variables['frozen']['prior_member']
  for k in range(K):
    own, random = (
        {c: jax.tree.map(lambda leaf, k=k: leaf[k], of[c]['member'])
         for c in ('params', 'batch_stats')}
        for of in (variables, frozen)
    )  # fmt: skip
    close(outputs.train[k], apply(own, IMAGES)[0], atol=1e-5)
    expected = 0.5 * apply(random, IMAGES)[0]
    close(outputs.prior[k], expected, atol=1e-5)


def test_members_and_their_priors_start_apart():
  base = MLP((7,), C)
  network = WithPrior(Ensemble(base, K), {'member': EnsemblePrior(base)})
  same = jax.random.key(0)
  variables = network.init({'params': same, 'frozen': same}, X, jnp.zeros(K))
  starts = [
      of['params']['member']['layer_0']['kernel']
      for of in (variables, variables['frozen']['prior_member'])
  ]
  for kernels in starts:
    assert kernels.shape[0] == K
    assert len(np.unique(kernels)) == kernels.size
  assert (starts[0] != starts[1]).all()


def test_a_broken_entry_of_a_basis_is_that_of_its_index_alone():
  """0 · NaN is NaN: what is not chosen must not be multiplied with 0."""
  base = MLP((7,), C)
  network = WithPrior(Ensemble(base, K), {'member': EnsemblePrior(base)})
  variables = initialised(network, X, jnp.zeros(K))
  frozen = jax.tree.map(
      lambda leaf: leaf.at[2].set(jnp.nan), variables['frozen']
  )

  @jax.jit
  def run(variables):
    def loss(params, index):
      out = network.apply({**variables, 'params': params}, X, index).preds
      return (out**2).sum(), out

    return over_index(
        lambda z: jax.grad(loss, has_aux=True)(variables['params'], z),
        jnp.eye(K),
    )

  grads, preds = run({**variables, 'frozen': frozen})
  expected_grads, expected = run(variables)
  others = jnp.array([0, 1, 3])
  close(preds[others], expected[others])
  assert jnp.isnan(preds[2]).all()
  assert_trees_close(
      jax.tree.map(lambda leaf: leaf[others], grads),
      jax.tree.map(lambda leaf: leaf[others], expected_grads),
  )


def test_no_gradient_reaches_a_prior_or_passes_through_it():
  network = WithPrior(PLAIN, {'x': MLPPrior((5,)), 'y': OfIndex()})
  variables = initialised(network, X, Z)
  grads = jax.jit(
      jax.grad(lambda v: (network.apply(v, X, Z).preds ** 2).sum())
  )(variables)
  assert not any(np.any(g) for g in jax.tree.leaves(grads['frozen']))
  to_x = [
      jax.jacobian(lambda x, out=out: out(network.apply(variables, x, Z)))(X)
      for out in (lambda o: o.preds, lambda o: o.train)
  ]
  np.testing.assert_array_equal(*to_x)


# What does not fit.


class Keyed(nn.Module):
  """A network whose index is a key."""

  indexer = PrngIndexer()

  @nn.compact
  def __call__(self, x, index, *, train=False):
    del train
    return Output(nn.Dense(C)(x) + jax.random.normal(index))


class Basis(nn.Module):
  """A basis of a fixed form, whatever it is asked for."""

  form: tuple[int, ...] = (B, C, D)

  @nn.compact
  def __call__(self, x, size):
    del x, size
    return jnp.zeros(self.form)


@pytest.mark.parametrize(
    ('prior', 'says'),
    [
        (
            Basis((B, C, D + 2)),
            "'x' (Basis) gives [6, 3, 6], expected [6, 3, 4] for the outputs",
        ),
        (
            Basis((B, C)),
            "'x' (Basis) gives [6, 3], expected [6, 3, 4] for the outputs",
        ),
        (
            MLP((5,), C + 1),
            "'x' (MLP) gives [6, 4], expected [6, 3] for the outputs",
        ),
        (
            EnsemblePrior(MLP((5,), 1)),
            "'x' (EnsemblePrior) gives [6, 1, 4], expected [6, 3, 4]",
        ),
        (
            ScaledPrior(MLP((5,), C), (1.0, 2.0)),
            "'x' has a scale [2], expected a number, or one for each of 3",
        ),
    ],
    ids=['size', 'no basis', 'classes', 'members', 'scale'],
)
def test_priors_of_another_shape_are_refused(prior, says):
  with pytest.raises(ValueError) as raised:
    WithPrior(PLAIN, {'x': prior}).init(RNGS, X, Z)
  assert says in str(raised.value)


@pytest.mark.parametrize(
    'prior', [IndexMLPPrior((5,)), IndependentLayersPrior((5,))], ids=repr
)
def test_priors_of_a_vector_refuse_a_key(prior):
  says = rf'{type(prior).__name__} reads an index \[D\].*this network is key<'
  with pytest.raises(ValueError, match=says):
    WithPrior(Keyed(), {'x': prior}).init(RNGS, X, jax.random.key(0))


def test_a_key_has_priors_but_no_basis():
  key = jax.random.key(0)
  network = WithPrior(Keyed(), {'x': ScaledPrior(Line(), 3.0)})
  output, variables = network.init_with_output(RNGS, X, key)
  expected = 3 * Line().apply(variables['frozen']['prior_x'], X, C)
  close(output.prior, expected)
  says = r"'x' is a basis.*\[D\].*index of this network is key.*name `size`"
  with pytest.raises(ValueError, match=says):
    WithPrior(Keyed(), {'x': MLPPrior((5,))}).init(RNGS, X, key)
