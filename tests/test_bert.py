"""What BERT promises beyond enn's numbers, and heads on what it knows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import build, kinds
from flax_enn.networks.backbones.bert import LARGE, Bert
from flax_enn.networks.combined import Combined
from flax_enn.networks.deterministic import Deterministic
from flax_enn.sampling import over_index

TINY = {
    'vocab_size': 20, 'layers': 2, 'hidden': 8, 'heads': 2, 'intermediate': 6,
    'positions': 6,
}  # fmt: skip


def texts(batch=4, length=6):
  rng = np.random.RandomState(0)
  mask = np.arange(length) < rng.randint(2, length, size=(batch, 1))
  return {
      'token_ids': jnp.asarray(rng.randint(20, size=(batch, length)) * mask),
      'segment_ids': jnp.zeros((batch, length), jnp.int32),
      'input_mask': jnp.asarray(mask, jnp.int32),
  }


@pytest.fixture(scope='module')
def tiny():
  net = Bert(3, **TINY)
  return net, jax.jit(net.init)(jax.random.key(0), texts())


def test_padding_changes_nothing(tiny):
  net, variables = tiny
  apply = jax.jit(lambda x: net.apply(variables, x)[0])
  x = texts()
  other = x['token_ids'] + 7 * (1 - x['input_mask'])
  assert (other != x['token_ids']).any()
  np.testing.assert_allclose(
      apply(x), apply({**x, 'token_ids': other}), atol=1e-6
  )
  shorter = {k: v[:, :5] for k, v in x.items()}
  np.testing.assert_allclose(apply(x), apply(shorter), atol=1e-6)


@pytest.mark.slow
def test_remat_changes_nothing(tiny):
  net, variables = tiny
  again = net.clone(remat=True)

  def value(net):
    rngs = {'dropout': jax.random.key(3)}
    return jax.jit(
        jax.value_and_grad(
            lambda v: jnp.square(
                net.apply(v, texts(), train=True, rngs=rngs)[0]
            ).sum()
        )
    )(variables)

  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8),
      value(net),
      value(again),
  )


def test_dropout_is_of_training_and_the_same_at_all_indices(tiny):
  net, variables = tiny
  variables = {'params': {'base': variables['params']}}
  network = Deterministic(net)
  indices = jnp.ones((3, 1))

  def outputs(train, key):
    return over_index(
        lambda z: network.apply(
            variables, texts(), z, train=train, rngs={'dropout': key}
        ).preds,
        indices,
    )

  one, two = (outputs(True, jax.random.key(i)) for i in (0, 1))
  assert np.abs(one - two).max() > 1e-3
  np.testing.assert_array_equal(one[0], one[2])
  still = outputs(False, jax.random.key(0))
  np.testing.assert_array_equal(still, outputs(False, jax.random.key(1)))


def test_sizes_of_the_configurations():
  """Those that the paper gives: 110 and 340 million parameters."""
  x = jax.eval_shape(texts)
  for fields, millions in (({}, 110), (LARGE, 336)):
    net = Bert(2, **fields)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert round(size / 1e6) == pytest.approx(millions, abs=1)


def test_texts_that_are_too_long_are_refused(tiny):
  net, variables = tiny
  with pytest.raises(ValueError, match='7 pieces, and has 6 `positions`'):
    net.apply(variables, texts(length=7))


HEADS = {
    'ensemble': {'member': {'name': 'mlp', 'hiddens': (4,)}, 'size': 3},
    'epinet': {
        'base': {'name': 'mlp', 'hiddens': (4,)},
        'features': ('inputs',),
        'index_dim': 3,
    },
    'deterministic': {'base': {'name': 'mlp', 'hiddens': ()}},
}


@pytest.mark.slow
@pytest.mark.parametrize('name', HEADS)
def test_heads_from_a_config(name):
  config = {
      'name': 'combined',
      'base': {'name': 'bert', **TINY, 'frozen': True},
      'feature': 'pooled',
      'head': {'name': name, **HEADS[name]},
  }
  network = build.build(config, kinds.NETWORK, 'config.network', 3)
  assert isinstance(network, Combined)
  indices = network.indexer.sample(jax.random.key(1), 3)
  rngs = {'params': jax.random.key(0), 'frozen': jax.random.key(0)}
  variables = jax.jit(network.init)(rngs, texts(), indices[0])
  assert set(variables['params']) == {'head'}
  out = over_index(
      jax.jit(lambda z: network.apply(variables, texts(), z).preds), indices
  )
  assert out.shape == (3, 4, 3)
  varies = np.abs(out - out[0]).max() > 1e-6
  assert varies == (name != 'deterministic')
