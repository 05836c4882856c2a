"""One step of training: the only place where losses are averaged."""

from collections.abc import Iterable, Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, EpistemicNetwork, Index, Output, Variables
from flax_enn.losses import Objective
from flax_enn.sampling import over_index
from flax_enn.training.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: EpistemicNetwork,
    objectives: Mapping[str, Objective],
    tx: optax.GradientTransformation,
    num_indices: int,
    accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Draws indices, averages the objectives over them and updates.

  Algorithm 1 of the paper: SGD over a minibatch of examples and one of indices.

  Args:
    state: before the step.
    batch: the global batch, B examples.
    network: keeps the network law.
    objectives: by name; those with the same `inputs` share one forward pass.
    tx: optimizer.
    num_indices: N, drawn anew each step.
    accumulation: number of parts that the batch is gone through in, one after
      the other, to save memory. Part i has the rows i, i + accumulation, …, of
      every device; batch statistics are those of a part.

  Returns:
    The state after the step, and scalars: `loss`, `loss_<objective>` before its
    weight, `grad_norm`.
  """
  index_key, inputs_key = jax.random.split(
      jax.random.fold_in(state.key, state.step)
  )
  indices = network.indexer.sample(index_key, num_indices)

  def total(params, statistics, part, key):
    """Value of all objectives on a part; their own values, new statistics."""
    variables = {'params': params, **state.collections, **statistics}
    value, logs = jnp.float32(0), {}
    for number, (inputs, names) in enumerate(_by_inputs(objectives)):
      own = jax.random.fold_in(key, number)
      seen = part if inputs is None else inputs(part, own)
      outputs, updated = _forward(network, variables, seen.x, indices)
      if inputs is None:  # statistics are those of the data
        statistics = updated
      for name in names:
        objective = objectives[name]
        logs[f'loss_{name}'] = _average(
            objective, outputs, seen, indices, variables
        )
        value += objective.weight_at(state.step) * logs[f'loss_{name}']
    return value, (logs, statistics)

  def gradient(statistics, part, key):
    (value, (logs, statistics)), gradients = jax.value_and_grad(
        total, has_aux=True
    )(state.params, statistics, part, key)
    return statistics, (value, logs, gradients)

  statistics = {
      k: v for k, v in state.collections.items() if k != 'frozen'
  }
  if accumulation == 1:
    statistics, means = gradient(statistics, batch, inputs_key)
  else:
    parts = jax.tree.map(functools.partial(_cut, accumulation), batch)
    keys = jax.random.split(inputs_key, accumulation)

    def add(carry, part):
      statistics, sums = carry
      statistics, values = gradient(statistics, *part)
      return (statistics, jax.tree.map(jnp.add, sums, values)), None

    first = jax.tree.map(lambda leaf: leaf[0], (parts, keys))
    _, shapes = jax.eval_shape(gradient, statistics, *first)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    (statistics, sums), _ = jax.lax.scan(
        add, (statistics, zeros), (parts, keys)
    )
    # Of equal parts: training batches have no padding.
    means = jax.tree.map(lambda leaf: leaf / accumulation, sums)
  value, logs, gradients = means
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  norm = optax.tree.norm(gradients)
  scales = jnp.stack([value, norm, optax.tree.norm(updates)])
  first = (state.nonfinite < 0) & ~jnp.isfinite(scales).all()
  step = state.step + 1
  new_state = state.replace(
      step=step,
      nonfinite=jnp.where(first, step, state.nonfinite),
      params=optax.apply_updates(state.params, updates),
      collections={**state.collections, **statistics},
      opt_state=opt_state,
  )
  return new_state, {'loss': value, **logs, 'grad_norm': norm}


def _cut(parts: int, leaf: jax.Array) -> jax.Array:
  """`[B, ...]` as `[parts, B / parts, ...]`, each spread over all devices."""
  return leaf.reshape(-1, parts, *leaf.shape[1:]).swapaxes(0, 1)


def _by_inputs(
    objectives: Mapping[str, Objective],
) -> Iterable[tuple[Any, list[str]]]:
  """Groups the objectives' names by the inputs they look at."""
  groups: dict[Any, list[str]] = {}
  for name, objective in objectives.items():
    groups.setdefault(objective.inputs, []).append(name)
  return groups.items()


def _forward(
    network: EpistemicNetwork, variables: Variables, x: Any, indices: Index
) -> tuple[Output, dict[str, Any]]:
  """Outputs `[N, B, C]` at all indices, and the updated statistics."""
  mutable = [c for c in variables if c not in ('params', 'frozen')]

  def at(index):
    return network.apply(variables, x, index, train=True, mutable=mutable)

  # None: JAX itself rejects statistics that would depend on the index.
  return over_index(at, indices, out_axes=(0, None))


def _average(
    objective: Objective,
    outputs: Output,
    batch: Batch,
    indices: Index,
    variables: Variables,
) -> jax.Array:
  """The mean of an objective over indices and unmasked examples, `[]`.

  The sum of weighted losses is divided by the number of examples, never by the
  sum of their weights, which bootstrapping makes random.
  """

  def weighted(values: jax.Array, seen: Batch) -> jax.Array:
    return values * seen.weight * seen.mask if values.ndim else values

  def at(index_and_output):
    index, output = index_and_output
    seen = batch
    for noise in objective.noise:
      seen = noise(seen, index)
    return weighted(objective.loss(output, seen, index, variables), seen)

  if objective.across:
    values = objective.loss(outputs, batch, indices, variables)
    values = weighted(values, batch)[None]
  else:
    values = over_index(at, (indices, outputs))
  if values.ndim == 1:  # one term per index, such as a penalty
    return values.mean()
  return values.sum() / (len(values) * batch.mask.sum())
