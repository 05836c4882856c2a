"""What training minimises: losses with weights, inputs and noise."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_enn.core import Batch, Index, Indexer, Output, Variables

# [B] for a loss of examples, [] for a penalty; no mean, no weight, no mask.
Loss = Callable[[Output, Batch, Index, Variables], jax.Array]
Inputs = Callable[[Batch, jax.Array], Batch]


@dataclasses.dataclass(frozen=True)
class Objective:
  """One term of what training minimises.

  The training step weighs (`batch.weight`), masks and averages what `loss`
  returns, over examples and indices; nothing here does.

  Attributes:
    loss: scores the function at one index, per example.
    weight: factor of the term, a number or a schedule of the step.
    inputs: `(batch, key) -> batch` the network is asked about, for example
      fake inputs on which to match a prior; None for the data. Objectives with
      the same `inputs` share one forward pass.
    noise: `(batch, index) -> batch`, applied in order: see `Noise`.
    across: the loss sees the outputs of all indices at once, `[N, ...]`.
  """

  loss: Loss
  weight: float | optax.Schedule = 1.0
  inputs: Inputs | None = None
  noise: tuple[Any, ...] = ()
  across: bool = False

  def __post_init__(self):
    object.__setattr__(self, 'noise', tuple(self.noise))
    if self.across and self.noise:
      raise ValueError(
          'an objective with across=True sees all indices at once, and noise is'
          ' that of one index; set config.objectives.*.noise to None'
      )
    seeds = [n.seed for n in self.noise if hasattr(n, 'seed')]
    if len(set(seeds)) < len(seeds):
      raise ValueError(
          f'the noise of one objective has seeds {seeds}; noise of equal seed'
          ' is drawn from the same keys, so that it would not be independent;'
          ' give config.objectives.*.noise.*.seed distinct numbers'
      )

  def bind(self, indexer: Indexer) -> 'Objective':
    """The objective whose noise knows which law its index is drawn from."""
    noise = tuple(
        n.bind(indexer) if hasattr(n, 'bind') else n for n in self.noise
    )
    return dataclasses.replace(self, noise=noise)

  def weight_at(self, step: jax.Array) -> jax.Array:
    """The factor of the term at one training step, `[]`."""
    weight = self.weight(step) if callable(self.weight) else self.weight
    return jnp.asarray(weight)
