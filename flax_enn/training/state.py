"""The state of a run: all that a checkpoint holds."""

from typing import Any

from flax import linen as nn
from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from flax_enn import sharding
from flax_enn.core import EpistemicNetwork
from flax_enn.model import init_variables, run_keys


class TrainState(struct.PyTreeNode):
  """What changes from step to step; with the config it determines the rest.

  Attributes:
    step: `[]` int32, number of steps done.
    key: typed PRNG key `[]`; step s draws from `fold_in(key, s)` alone.
    first_nonfinite_step: `[]` int32, the first step (they count from 1) whose
      loss, gradient or update was not finite, or -1.
    params: what the optimizer changes.
    collections: all other variables: `frozen`, `batch_stats`, …
    opt_state: of the optimizer, over `params` only.
  """

  step: jax.Array
  key: jax.Array
  first_nonfinite_step: jax.Array
  params: Any
  collections: Any
  opt_state: Any

  @property
  def variables(self) -> dict[str, Any]:
    """What `network.apply` takes."""
    return {'params': self.params, **self.collections}


def init_state(
    network: EpistemicNetwork,
    tx: optax.GradientTransformation,
    seed: int | jax.Array,
    x: Any,
) -> TrainState:
  """Draws the state before the first step, with partition boxes.

  `x` are inputs of any batch size, for their shape.
  """
  keys = run_keys(seed)
  variables = dict(init_variables(network, keys, x))
  params = variables.pop('params', {})
  return TrainState(
      step=jnp.int32(0),
      key=keys['steps'],
      first_nonfinite_step=jnp.int32(-1),
      params=params,
      collections=variables,
      opt_state=tx.init(params),
  )


def abstract_state(
    network: EpistemicNetwork,
    tx: optax.GradientTransformation,
    x: Any,
    mesh: Mesh,
    rules: sharding.Rules = sharding.DEFAULT_RULES,
) -> TrainState:
  """The shapes, dtypes and shardings of a state, without computing anything."""
  boxed = jax.eval_shape(lambda: init_state(network, tx, 0, x))
  return sharding.placed(boxed, mesh, rules)


def create_train_state(
    network: EpistemicNetwork,
    tx: optax.GradientTransformation,
    seed: int,
    x: Any,
    abstract: TrainState,
) -> TrainState:
  """Draws the state of a new run, every leaf where `abstract_state` has it.

  The values depend on the seed alone, not on the mesh; see `init_state`.
  """
  # The seed is an argument, so that one program serves all seeds.
  create = jax.jit(
      lambda seed: nn.unbox(init_state(network, tx, seed, x)),
      out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract),
  )
  return create(np.uint32(seed))
