"""A training step on a small batch, and what it is by definition."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_enn.core import Batch, Output
from flax_enn.indexers import GaussianIndexer
from flax_enn.likelihoods import Categorical
from flax_enn.losses import (
    Bootstrap,
    L2Penalty,
    Objective,
    Xent,
)
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step

B, C, D, N = 6, 3, 2, 4
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
INDICES = np.asarray(jax.random.normal(jax.random.key(7), (N, D)))


class Given(GaussianIndexer):
  """Draws the same indices whatever the key, for a reference to know them."""

  def sample(self, key, n):
    del key
    return jnp.asarray(INDICES[:n])


class GivenEpinet(Epinet):
  """An epinet at indices that are known."""

  @property
  def indexer(self):
    return Given(self.index_dim)


NETWORK = WithPrior(
    GivenEpinet(
        base=MLP((5,), C),
        features=('inputs', 'hidden_0'),
        index_dim=D,
        hiddens=(4,),
    ),
    {'x': MLPPrior((3,))},
)


def a_batch(size=B, seed=0):
  rng = np.random.default_rng(seed)
  return Batch(
      x=rng.normal(size=(size, 2)).astype(np.float32),
      y=rng.integers(C, size=size),
      weight=rng.uniform(0.5, 2, size).astype(np.float32),
      id=rng.integers(1000, size=size).astype(np.int32),
      mask=np.ones(size, np.float32),
  )


BATCH = a_batch()
MASKED = BATCH.replace(mask=np.float32([1, 0, 1, 1, 0, 1]))
SGD = optax.sgd(1.0)  # one step leads down the gradient


def start(network=NETWORK, x=BATCH.x, tx=SGD):
  return nn.unbox(init_state(network, tx, 0, x))


def stepper(objectives, network=NETWORK, tx=SGD, num_indices=N, **options):
  options = {'likelihood': Categorical(C), 'num_examples': 60, **options}
  return functools.partial(
      train_step,
      network=network,
      objectives=objectives,
      tx=tx,
      num_indices=num_indices,
      **options,
  )


def step(state, batch, objectives, **options):
  return jax.jit(stepper(objectives, **options))(state, batch)


def gradients(before, after):
  return jax.tree.map(jnp.subtract, before.params, after.params)


def assert_trees_close(found, expected):
  jax.tree.map(close, found, expected)


def score(logits, y):
  """-log softmax(logits)_y of one example, by its definition."""
  return jnp.log(jnp.exp(logits).sum()) - logits[y]


def reference(params, state, batch, noise=()):
  """The mean over indices and unmasked examples, one by one."""
  total, examples = 0.0, 0
  for index in INDICES:
    variables = {**state.variables, 'params': params}
    logits = NETWORK.apply(variables, batch.x, index).preds
    seen = batch
    for n in noise:
      seen = n(seen, index, NETWORK.indexer)
    for b in range(len(batch.y)):
      if batch.mask[b]:
        total += seen.weight[b] * score(logits[b], batch.y[b])
        examples += 1
  return total / examples


NOISES = {
    'plain': (),
    'noise': (Bootstrap(seed=3),),
    'two noises': (Bootstrap('bernoulli', seed=0), Bootstrap(seed=1)),
}


def across(outputs, batch, *, index, **_):
  """Disagreement of the indices, `[B]`."""
  assert outputs.preds.shape[:2] == (N, len(batch.y))
  assert len(index) == N
  return outputs.preds.var(axis=0).sum(-1)


EVERYTHING = {
    'data': Objective(Xent(), noise=NOISES['noise']),
    'spread': Objective(across, weight=0.3, across=True),
    'size': Objective(L2Penalty(0.1)),
}


@dataclasses.dataclass(frozen=True)
class Shifted:
  """Inputs beside the data."""

  by: float

  def __call__(self, batch, key):
    del key
    return batch.replace(x=batch.x + self.by, weight=2 * batch.weight)


class Echo(nn.Module):
  """Its outputs are the index, plus a weight that starts at 0."""

  indexer = GaussianIndexer(1)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    del train
    weight = self.param('kernel', nn.initializers.zeros, (1,))
    return Output(jnp.broadcast_to(index + weight, (len(x), 1)))


def first_output(outputs, batch, **_):
  del batch
  return outputs.preds[:, 0]
