"""Variables of heads on stored features: trained, or fitted to what was."""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import numpy as np
import optax

from flax_enn import Objective, Xent
from flax_enn.core import Batch
from flax_enn.likelihoods import Categorical
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from flax_enn.training.stepper import rows_of

BATCH_SIZE = 128

Pair = tuple[dict[str, np.ndarray], np.ndarray]


def trained(
    network: Any,
    settings: Mapping[str, Any],
    data: Pair,
    seed: int,
    *,
    steps: int,
    classes: int,
) -> Any:
  """Variables after some steps of AdamW, in one compiled loop.

  Args:
    network: whose they are.
    settings: `learning_rate`, `weight_decay` and, if it is not all or 1,
      `num_indices`.
    data: x and y.
    seed: of initialisation, order and indices.
    steps: of training.
    classes: C.
  """
  x, y = data
  n = len(y)
  tx = optax.adamw(
      optax.cosine_decay_schedule(settings['learning_rate'], steps),
      weight_decay=settings['weight_decay'],
  )
  ones = np.ones(n, np.float32)
  examples = Batch(x, y, ones, np.arange(n, dtype=np.int32), ones)
  rng = np.random.default_rng(seed)
  epochs = [rng.permutation(n) for _ in range(-(-steps * BATCH_SIZE // n))]
  rows = np.concatenate(epochs)[: steps * BATCH_SIZE].reshape(steps, -1)
  step = functools.partial(
      train_step,
      network=network,
      objectives={'data': Objective(Xent())},
      tx=tx,
      likelihood=Categorical(classes),
      num_examples=n,
      num_indices=settings.get('num_indices') or network.indexer.size,
  )

  @jax.jit
  def run(examples: Batch, rows: jax.Array) -> Any:
    one = rows_of(examples, rows[0, :1])
    state = nn.unbox(init_state(network, tx, seed, one.x))
    return jax.lax.scan(
        lambda s, r: (step(s, rows_of(examples, r))[0], None), state, rows
    )[0]

  return run(examples, rows).variables


def gaussian(network: Any, params: Any, data: Pair) -> Any:
  """The curvature of all examples, around parameters that were trained."""
  index = network.indexer.sample(jax.random.key(0), 1)[0]

  @jax.jit
  def add(variables: Any, x: Any) -> Any:
    _, found = network.apply(
        variables, x, index, train=True, mutable=['curvature']
    )
    return {**variables, **found}

  one = jax.tree.map(lambda a: a[:2], data[0])
  variables = {**network.init(jax.random.key(0), one, index), 'params': params}
  for i in range(0, len(data[1]), 2000):
    rows = slice(i, i + 2000)
    variables = add(variables, jax.tree.map(lambda a, r=rows: a[r], data[0]))
  return variables
