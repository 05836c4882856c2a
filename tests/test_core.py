"""The types that everything shares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers
from flax_enn.core import (
    Batch,
    EpistemicNetwork,
    Example,
    Indexer,
    Output,
    promote_to_float32,
)
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet

TRAIN, PRIOR = jnp.array([[1.0, 2.0]]), jnp.array([[10.0, -20.0]])


def test_preds_add_the_prior():
  np.testing.assert_array_equal(Output(TRAIN, PRIOR).preds, [[11.0, -18.0]])
  np.testing.assert_array_equal(Output(TRAIN).preds, TRAIN)


def test_gradients_reach_what_is_trained_and_not_the_prior():
  grad = jax.grad(lambda t, p: (Output(t, p).preds ** 2).sum(), argnums=(0, 1))
  to_train, to_prior = grad(TRAIN, PRIOR)
  np.testing.assert_array_equal(to_train, [[22.0, -36.0]])
  np.testing.assert_array_equal(to_prior, [[0.0, 0.0]])


def test_outputs_are_mapped_with_all_their_parts():
  def fn(z):
    extra = {'features': 2 * TRAIN}
    return Output(TRAIN * z, PRIOR * z, base=TRAIN, extra=extra)

  outputs = jax.vmap(fn)(jnp.arange(3.0))
  assert outputs.preds.shape == (3, 1, 2)
  assert outputs.base.shape == (3, 1, 2)
  assert outputs.extra['features'].shape == (3, 1, 2)
  expected = 2 * Output(TRAIN, PRIOR).preds
  np.testing.assert_array_equal(outputs.preds[2], expected)


def test_an_output_without_a_base_has_none():
  """Nor a leaf for it: nothing that is mapped or compiled carries it along."""
  assert Output(TRAIN).base is None
  assert len(jax.tree.leaves(Output(TRAIN))) == 1
  assert len(jax.tree.leaves(Output(TRAIN, PRIOR, base=TRAIN))) == 3


def test_the_base_does_not_count_twice():
  with_base = Output(TRAIN, PRIOR, base=100 * TRAIN)
  np.testing.assert_array_equal(with_base.preds, Output(TRAIN, PRIOR).preds)


def test_each_output_has_extras_of_its_own():
  assert Output(TRAIN).extra == {}
  assert Output(TRAIN).extra is not Output(TRAIN).extra


def test_a_batch_of_trees_and_without_labels_is_a_pytree():
  x = {'tokens': np.zeros((4, 7)), 'mask': np.ones((4, 7))}
  batch = Batch(x, None, np.ones(4), np.arange(4), np.ones(4))
  half = jax.tree.map(lambda leaf: leaf[:2], batch)
  assert half.x['tokens'].shape == (2, 7)
  assert half.y is None
  assert len(jax.tree.leaves(batch)) == 5


class OnlyDraws:
  """What an indexer was before it told its size, mean and scale."""

  def sample(self, key, n):
    return jax.random.normal(key, (n, 3))


@pytest.mark.parametrize(
    ('value', 'protocol', 'expected'),
    [
        (indexers.GaussianIndexer(3), Indexer, True),
        (indexers.EnsembleIndexer(3), Indexer, True),
        (Epinet(MLP((), 2), ('logits',)), EpistemicNetwork, True),
        (MLP((), 2), EpistemicNetwork, False),  # a base knows no index
        (object(), Indexer, False),
        (OnlyDraws(), Indexer, False),
    ],
    ids=lambda v: type(v).__name__,
)
def test_protocols_tell_what_keeps_them(value, protocol, expected):
  assert isinstance(value, protocol) == expected


def test_an_example_names_nothing_as_index_free_by_default():
  network, x, index_free = Example('a network', TRAIN)
  assert (network, index_free) == ('a network', ())
  assert x is TRAIN


@pytest.mark.parametrize(
    ('given', 'expected'),
    [('bfloat16', 'float32'), ('float16', 'float32'), ('float32', 'float32')],
)
def test_narrow_results_are_promoted(given, expected):
  assert promote_to_float32(TRAIN.astype(given)).dtype == expected


def test_wide_results_stay_as_they_are():
  with jax.enable_x64(True):
    wide = promote_to_float32(jnp.ones(3, jnp.float64))
    assert wide.dtype == jnp.float64
