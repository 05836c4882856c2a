"""One step of training: the only place where losses are averaged."""

from collections.abc import Mapping
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_enn import sharding
from flax_enn.core import BLANK, Batch, EpistemicNetwork, Index, Variables
from flax_enn.gradient_gate import gated
from flax_enn.likelihoods import Likelihood
from flax_enn.losses.objective import Context, Objective, due_at
from flax_enn.sampling import over_index
from flax_enn.step_batch import training_on
from flax_enn.training import accumulation as accumulation_lib
from flax_enn.training.state import TrainState


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    network: EpistemicNetwork,
    objectives: Mapping[str, Objective],
    tx: optax.GradientTransformation,
    likelihood: Likelihood,
    num_examples: int,
    num_indices: int,
    accumulation: int = 1,
) -> tuple[TrainState, dict[str, jax.Array]]:
  """Draws indices, averages the objectives over them and updates.

  Algorithm 1 of the paper: SGD over a minibatch of examples and one of indices.

  Args:
    state: before the step.
    batch: the global batch, B examples. With a row that is `BLANK` in it, the
      state stays as it is.
    network: what is trained.
    objectives: by name; those of the same inputs and indices share one forward
      pass.
    tx: optimizer.
    likelihood: for losses that ask for it.
    num_examples: in the training split, likewise.
    num_indices: N, drawn anew each step.
    accumulation: number of microbatches that the batch is split into, one after
      the other, to save memory. Microbatch i has the rows i, i + accumulation,
      …, of every device; batch statistics are those of a microbatch.

  Returns:
    The state after the step, and scalars: `loss`, `loss_<objective>` before its
    weight, `grad_norm`.
  """
  index_key, inputs_key = jax.random.split(
      jax.random.fold_in(state.key, state.step)
  )
  indices = network.indexer.sample(index_key, num_indices)
  context = Context(state.step, num_examples, likelihood)

  def gradient(statistics, microbatch, key):
    def total(params):
      variables = {'params': params, **state.collections, **statistics}
      return total_loss(
          network, objectives, variables, microbatch, indices, key, context
      )

    (value, (logs, updated)), gradients = jax.value_and_grad(
        total, has_aux=True
    )(state.params)
    return {**statistics, **updated}, (value, logs, gradients)

  statistics = {
      k: v for k, v in state.collections.items() if k != 'frozen'
  }
  if accumulation == 1:
    statistics, means = gradient(statistics, batch, inputs_key)
  else:
    statistics, means = accumulation_lib.accumulate(
        gradient,
        statistics,
        batch,
        inputs_key,
        accumulation,
        unroll=accumulation_lib.unrolls(state, batch, accumulation),
    )
  value, logs, gradients = means
  updates, opt_state = tx.update(gradients, state.opt_state, state.params)
  norm = optax.tree.norm(gradients)
  scales = jnp.stack([value, norm, optax.tree.norm(updates)])
  first = (state.first_nonfinite_step < 0) & ~jnp.isfinite(scales).all()
  step = state.step + 1
  new_state = state.replace(
      step=step,
      first_nonfinite_step=jnp.where(first, step, state.first_nonfinite_step),
      params=optax.apply_updates(state.params, updates),
      collections={**state.collections, **statistics},
      opt_state=opt_state,
  )
  blank = sharding.on_any_device(batch.id == BLANK)
  forms = [
      (jax.tree.structure(each), [*map(jnp.shape, jax.tree.leaves(each))])
      for each in (state, new_state)
  ]
  if forms[0] == forms[1]:  # see `checks`
    new_state = jax.tree.map(
        lambda old, new: new if new is old else jnp.where(blank, old, new),
        state,
        new_state,
    )
  return new_state, {'loss': value, **logs, 'grad_norm': norm}


def total_loss(
    network: EpistemicNetwork,
    objectives: Mapping[str, Objective],
    variables: Variables,
    batch: Batch,
    indices: Index,
    key: jax.Array,
    context: Context,
) -> tuple[jax.Array, tuple[dict[str, jax.Array], dict[str, Any]]]:
  """The weighted sum of all objectives `[]`; each of them, and statistics."""
  groups = list(dict.fromkeys(o.inputs for o in objectives.values()))
  value, logs, statistics, step = jnp.float32(0), {}, {}, context.step
  for number, inputs in enumerate(groups):
    own = jax.random.fold_in(key, number)
    x = batch if inputs is None else inputs(batch, own)
    outputs = {}  # by the choice of indices: one forward pass each
    group = {k: o for k, o in objectives.items() if o.inputs == inputs}
    for name, objective in group.items():
      for choose in _choices(objective).values():
        if choose in outputs:
          continue
        second = jax.random.fold_in(own, 2)
        at = indices if choose is None else choose(network.indexer, second)
        due = due_at(
            [o for o in group.values() if choose in _choices(o).values()], step
        )
        run = functools.partial(_forward, network, x=x.x, indices=at, key=own)
        with training_on(x, context.num_examples):
          found, updated = gated(due, run, variables)
        outputs[choose] = at, found
        if inputs is None:  # statistics are of the data
          statistics = updated
      run = functools.partial(
          _average, objective, batch=x, context=context, indexer=network.indexer
      )
      chosen = {key: outputs[c] for key, c in _choices(objective).items()}
      due = due_at([objective], step)
      loss = logs[f'loss_{name}'] = gated(due, run, chosen, variables)
      value += jnp.where(due, objective.weight_at(step) * loss, 0)
  return value, (logs, statistics)


def _choices(objective: Objective) -> Mapping[str, Any]:
  """The choices of indices of an objective, by name."""
  indices = objective.indices
  return indices if isinstance(indices, Mapping) else {'': indices}


def _forward(
    network: EpistemicNetwork,
    variables: Variables,
    x: Any,
    indices: Index,
    key: jax.Array,
) -> tuple[Any, dict[str, Any]]:
  """Outputs `[N, B, C]` at all indices, and the updated statistics."""
  mutable = [c for c in variables if c not in ('params', 'frozen')]
  # Linen takes this stream for any that a module asks for by another name, such
  # as `dropout`. It does not depend on the index.
  rngs = {'params': jax.random.fold_in(key, 1)}

  def at(index):
    return network.apply(
        variables, x, index, train=True, mutable=mutable, rngs=rngs
    )

  # None: JAX itself rejects statistics that would depend on the index.
  return over_index(at, indices, out_axes=(0, None))


def _average(
    objective: Objective,
    chosen: Mapping[str, tuple[Index, Any]],
    variables: Variables,
    batch: Batch,
    context: Context,
    indexer: Any,
) -> jax.Array:
  """The mean of an objective over indices and unmasked examples, `[]`.

  The sum of weighted losses is divided by the number of examples, never by the
  sum of their weights, which bootstrapping makes random.
  """
  loss = functools.partial(
      objective.loss, variables=variables, context=context
  )

  def weighted(values, noisy):
    values, expected = jnp.asarray(values), batch.mask.shape
    if values.shape not in ((), expected):  # [B, 1] would become [B, B]
      raise ValueError(
          f'the loss is {list(values.shape)}; expected {list(expected)} or []'
      )
    return values * noisy.weight * noisy.mask if values.ndim else values

  def at(index_and_output):
    index, output = index_and_output
    noisy = batch
    for noise in objective.noise:
      noisy = noise(noisy, index, indexer)
    return weighted(loss(output, noisy, index=index), noisy)

  index, output = ({k: v[i] for k, v in chosen.items()} for i in (0, 1))
  if not isinstance(objective.indices, Mapping):
    index, output = index[''], output['']
  if objective.across:
    values = weighted(loss(output, batch, index=index), batch)[None]
  else:
    values = over_index(at, (index, output))
  if values.ndim == 1:  # one term per index, such as a penalty
    return values.mean()
  return values.sum() / (len(values) * accumulation_lib.examples(batch))
