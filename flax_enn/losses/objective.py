"""What training minimises: losses with weights, inputs, indices and noise."""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any, Protocol

from flax import struct
import jax
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, Index, Indexer, Output, Variables
from flax_enn.field_checks import check_finite
from flax_enn.likelihoods import Likelihood

Inputs = Callable[[Batch, jax.Array], Batch]
Indices = Callable[[Indexer, jax.Array], Index]


class Context(struct.PyTreeNode):
  """What a loss may need to know of the run.

  Attributes:
    step: `[]` number of steps done.
    num_examples: in the training split, which a KL term is divided by.
    likelihood: of the model.
  """

  step: jax.Array
  num_examples: int = struct.field(pytree_node=False)
  likelihood: Likelihood = struct.field(pytree_node=False)


class Loss(Protocol):
  """Scores one function on one batch: no mean, no weight, no mask.

  A loss takes by name what it needs and the rest as `**_`.
  """

  def __call__(
      self,
      outputs: Output,
      batch: Batch,
      *,
      index: Index,
      variables: Variables,
      context: Context,
  ) -> jax.Array:
    """`[B]` losses of examples, or `[]` for a penalty."""
    ...


@dataclasses.dataclass(frozen=True)
class Objective:
  """One term of what training minimises.

  The training step weighs (`batch.weight`), masks and averages what `loss`
  returns, over examples and indices; nothing here does.

  Attributes:
    loss: scores the function at one index, per example.
    weight: factor of the term, a number or a schedule of the step. One of the
      number 0 is computed and logged, and not trained.
    inputs: `(batch, key) -> batch` that the network is evaluated on, such as
      fake inputs on which to match a prior; None for the data.
    indices: `(indexer, key) -> [N, ...]` that it is evaluated at, such as
      `MeanIndex()`; None for the indices that the step has drawn. Objectives of
      the same inputs and indices share one forward pass.
    noise: `(batch, index, indexer) -> batch`, applied in order: see `Noise`.
    across: the loss sees the outputs of all indices at once, `[N, B, C]`, and
      `[N, ...]` indices. Then `indices` may be a dict, by name, and the loss
      gets dicts of outputs and indices of the same names, at the same inputs.
    every: the term is trained in every so many-th step alone, where its weight
      is 0 elsewhere; it is logged in all. In a step whose weight is 0 it may be
      NaN, and has no backward pass (but for convolutions on CPUs).
  """

  loss: Loss | Callable[..., jax.Array]
  weight: float | optax.Schedule = 1.0
  inputs: Inputs | None = None
  indices: Any = None
  noise: tuple[Any, ...] = ()
  across: bool = False
  every: int = 1

  def __post_init__(self):
    if self.every < 1:
      raise ValueError(f'every is {self.every}; it must be at least 1')
    if not callable(self.weight):
      check_finite(self, 'weight')
    object.__setattr__(self, 'noise', tuple(self.noise))
    if self.noise and (self.across or self.indices is not None):
      raise ValueError(
          'noise is that of one index that the step has drawn; leave it out'
          ' where the loss sees all indices at once (across) or chooses its own'
          ' (indices)'
      )
    if isinstance(self.indices, dict) and not self.across:
      raise ValueError(
          f'indices have the names {sorted(self.indices)}, which needs a loss'
          ' that sees them at once; set across to True'
      )
    for field in ('inputs', 'indices'):
      value = getattr(self, field)
      try:
        hash(tuple(value.values()) if isinstance(value, dict) else value)
      except TypeError as e:
        raise ValueError(
            f'{field} is {value!r}, which has no hash; objectives of equal'
            f' {field} share a forward pass: make it a function, or a frozen'
            ' dataclass of values'
        ) from e
    seeds = [n.seed for n in self.noise if hasattr(n, 'seed')]
    if len(set(seeds)) < len(seeds):
      raise ValueError(
          f'noise has the seeds {seeds}; noise of equal seed is drawn from the'
          ' same keys, so that it would not be independent; set distinct seeds'
      )

  def weight_at(self, step: jax.Array) -> jax.Array:
    """The factor of the term after so many steps, `[]`."""
    weight = self.weight(step) if callable(self.weight) else self.weight
    if self.every == 1:
      return jnp.asarray(weight)
    return jnp.where((step + 1) % self.every == 0, weight, 0.0)


def named(
    objectives: Mapping[str, Objective] | Objective | Callable[..., Any],
) -> dict[str, Objective]:
  """Objectives by name; one alone, or a loss alone, has the name `data`.

  Raises:
    ValueError: there is none.
  """
  if isinstance(objectives, Mapping):
    if not objectives:
      raise ValueError('objectives is empty; name at least one')
    return dict(objectives)
  if not isinstance(objectives, Objective):
    objectives = Objective(objectives)
  return {'data': objectives}


def due_at(
    objectives: Iterable[Objective], step: jax.Array
) -> jax.Array | bool:
  """Whether one of them has a weight after so many steps, `[]`.

  A bool where that is the same in all steps.
  """
  changing = []
  for objective in objectives:
    if callable(objective.weight) or (objective.weight and objective.every > 1):
      changing.append(objective.weight_at(step) != 0)
    elif objective.weight:
      return True
  return jnp.stack(changing).any() if changing else False
