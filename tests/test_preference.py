"""Choices between items, and double Thompson sampling, against slow forms."""

import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.active_learning import double_thompson
from flax_enn.core import Batch
from flax_enn.losses import Xent
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.preference import Preference, example
from flax_enn.networks.sngp import Sngp
from flax_enn.step_batch import training_on

KEY = jax.random.key(3)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


@functools.cache
def start():
  """Network, pairs, variables, an index and `r(items) [B]` of the network."""
  network, x, _ = example()
  index = network.indexer.sample(KEY, 1)[0]
  variables = network.init({'params': KEY, 'frozen': KEY}, x, index)
  inner = {name: found['net'] for name, found in variables.items()}

  def reward(items):
    return np.asarray(network.net.apply(inner, items, index).preds[:, 0])

  return network, x, variables, index, reward


def test_loss_is_that_of_bradley_and_terry():
  network, x, variables, index, reward = start()
  out = network.apply(variables, x, index)
  y = np.array([0, 1, 1, 0, 0, 1, 0, 1], np.int32)
  ones = np.ones(8, np.float32)
  loss = Xent()(out, Batch(x=x, y=y, weight=ones, id=y, mask=ones))
  better = np.where(y == 0, *(reward(x[:, i]) for i in (0, 1)))
  worse = np.where(y == 0, *(reward(x[:, i]) for i in (1, 0)))
  close(loss, np.log1p(np.exp(-(better - worse))))
  assert out.prior is not None and out.base is not None
  assert out.prior.shape == out.base.shape == (8, 2)


def test_rewards_of_any_number_of_items():
  network, x, variables, index, reward = start()
  items = x.reshape(16, 4)
  found = network.apply(variables, items[None], index).preds
  close(found, reward(items)[None])


class Distance(nn.Module):
  """A base of two inputs."""

  @nn.compact
  def __call__(self, x: Any, *, train: bool = False):
    logits = ((x['a'] - x['b']) ** 2).sum(-1, keepdims=True)
    return logits * self.param('w', nn.initializers.ones, ()), {}


def test_an_item_may_be_a_tree():
  x = {'a': jnp.arange(12.0).reshape(2, 3, 2), 'b': jnp.ones((2, 3, 1))}
  network = Preference(Deterministic(Distance()))
  index = network.indexer.sample(KEY, 1)[0]
  out, _ = network.init_with_output({'params': KEY}, x, index)
  close(out.preds, ((x['a'] - x['b']) ** 2).sum(-1))


@pytest.mark.parametrize(
    'shapes, classes, message',
    [
        ([(4, 2, 3)], 2, r'has 2 outputs.*`classes` to 1'),
        ([(4,)], 1, r'\[\[4\]\]; expected choices'),
        ([(4, 2, 3), (4, 3, 3)], 1, 'the same number of items'),
    ],
)
def test_what_is_no_choice_is_refused(shapes, classes, message):
  network = Preference(Deterministic(MLP((), classes)))
  x = [jnp.zeros(shape) for shape in shapes]
  index = network.indexer.sample(KEY, 1)[0]
  with pytest.raises(ValueError, match=message):
    network.init({'params': KEY}, x[0] if len(x) == 1 else x, index)


def slow_double_thompson(rewards):
  """The two items in a loop; None for one at random."""
  first = int(np.argmax(rewards[0]))
  for further in rewards[1:]:
    if np.argmax(further) != first:
      return first, int(np.argmax(further))
  return first, None


def test_double_thompson_is_that_of_a_loop():
  rng = np.random.default_rng(0)
  seconds = []
  # Few indices and items, so that often all tries agree.
  rewards = rng.normal(size=(300, 3, 3)).astype(np.float32)
  keys = jax.random.split(KEY, len(rewards))
  for of, pair in zip(rewards, jax.vmap(double_thompson)(rewards, keys)):
    first, second = slow_double_thompson(of)
    assert pair[0] == first and pair[1] != first
    assert second is None or pair[1] == second
    seconds.append(second)
  assert 10 < seconds.count(None) < 100


def test_where_all_agree_the_second_is_any_other():
  rewards = jnp.tile(jnp.array([0.0, 1.0, 5.0, 2.0]), (6, 1))
  keys = jax.random.split(KEY, 300)
  pairs = jax.vmap(double_thompson, (None, 0))(rewards, keys)
  assert set(pairs[:, 0].tolist()) == {2}
  counts = np.bincount(pairs[:, 1], minlength=4)
  assert counts[2] == 0 and (counts[[0, 1, 3]] > 70).all(), counts


def slow_of_pairs(rewards, pairs):
  """The first item, and the second or those that it is drawn from."""
  partners = {}
  for i, j in pairs.tolist():
    partners.setdefault(i, set()).add(j)
    partners.setdefault(j, set()).add(i)
  first = max(partners, key=lambda i: rewards[0, i])
  for further in rewards[1:]:
    if (second := int(np.argmax(further))) in partners[first]:
      return first, {second}
  return first, partners[first]


def test_pairs_that_can_be_asked_about():
  rng = np.random.default_rng(1)
  rewards = rng.normal(size=(200, 4, 5)).astype(np.float32)
  pairs = np.stack([
      [rng.choice(5, 2, replace=False) for _ in range(3)] for _ in rewards
  ])
  keys = jax.random.split(KEY, len(rewards))
  drawn, not_the_best = 0, 0
  found = jax.jit(jax.vmap(double_thompson))(rewards, keys, pairs)
  for of, allowed, pair in zip(rewards, pairs, found.tolist()):
    first, seconds = slow_of_pairs(of, allowed)
    assert pair[0] == first and pair[1] in seconds
    assert sorted(pair) in np.sort(allowed, 1).tolist()
    drawn += len(seconds) > 1
    not_the_best += first != np.argmax(of[0])
  assert drawn > 5 and not_the_best > 20


def test_one_item_is_no_pair():
  with pytest.raises(ValueError, match=r'\[3, 1\]; expected \[N, C\]'):
    double_thompson(jnp.zeros((3, 1)), KEY)


BASE = MLP((5,), 1)


@pytest.mark.parametrize(
    'net',
    [
        Sngp(BASE, ('hidden_0',), 1, num_features=6),
        Laplace(BASE, ('hidden_0',)),
    ],
)
def test_each_item_is_an_example_to_the_network_of_rewards(net):
  """Of a choice that cannot be read no item counts."""
  network = Preference(net)
  x = jax.random.normal(jax.random.key(0), (3, 2, 4))
  index = network.indexer.sample(jax.random.key(1), 1)[0]
  rngs = {'params': jax.random.key(2), 'frozen': jax.random.key(3)}
  variables = network.init(rngs, x, index)

  def sums(x, mask):
    ones = np.ones(len(mask), np.float32)
    batch = Batch(x=x, y=ones, weight=ones, id=ones, mask=np.float32(mask))
    with training_on(batch, 10):
      _, updated = network.apply(
          variables, x, index, train=True, mutable=['curvature', 'precision']
      )
    return updated

  jax.tree.map(close, sums(x, [1, 0, 1]), sums(x[::2], [1, 1]))
