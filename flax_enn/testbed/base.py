"""What an agent is, and how one is trained."""

from collections.abc import Callable
import math
from typing import Any, Protocol

import jax
import numpy as np
import optax

from flax_enn.core import EpistemicNetwork
from flax_enn.experiment import Experiment
from flax_enn.likelihoods import Categorical
from flax_enn.loggers import SilentLogger
from flax_enn.losses import Bootstrap, L2Penalty, Objective, Xent

# `(x [B, D], key) -> logits [B, C]` of one function.
Sampler = Callable[[jax.Array, jax.Array], jax.Array]

_BATCH_SIZE = 100


class Prior(Protocol):
  """What of the testbed's `PriorKnowledge` an agent reads."""

  input_dim: int
  num_train: int
  num_classes: int
  temperature: float


class Data(Protocol):
  """The testbed's training data."""

  x: Any
  y: Any


Agent = Callable[[Data, Prior], Sampler]


def trained_agent(
    network: Callable[[Prior], EpistemicNetwork],
    objectives: Callable[[Prior], dict[str, Objective]],
    *,
    num_steps: int | Callable[[Prior], int],
    seed: int,
    num_indices: int | None = None,
    learning_rate: float = 1e-3,
) -> Agent:
  """An agent that trains with Adam on batches of 100."""

  def agent(data: Data, prior: Prior) -> Sampler:
    trained = experiment(
        network(prior), objectives(prior), data, prior, seed,
        num_indices=num_indices, tx=optax.adam(learning_rate),
    )  # fmt: skip
    trained.train(num_steps(prior) if callable(num_steps) else num_steps)
    return trained.predict

  return agent


def experiment(
    network: EpistemicNetwork,
    objectives: dict[str, Objective],
    data: Data,
    prior: Prior,
    seed: int,
    *,
    tx: optax.GradientTransformation,
    num_indices: int | None = None,
) -> Experiment:
  """An experiment on the testbed's data, in batches of 100, which is silent."""
  return Experiment(
      network,
      objectives,
      tx,
      (np.asarray(data.x), labels(data, prior)),
      seed,
      SilentLogger(),
      batch_size=_BATCH_SIZE,
      num_indices=num_indices,
      likelihood=Categorical(prior.num_classes),  # some may not be in the data
  )


def labels(data: Data, prior: Prior) -> np.ndarray:
  """The labels `[N]` of data whose y is `[N, 1]`.

  Raises:
    ValueError: they are no labels of `prior.num_classes` classes.
  """
  y = np.asarray(data.y)
  found = y.reshape(-1).astype(np.int32)
  whole = y.size == len(y) and np.array_equal(found, y.reshape(-1))
  if prior.num_classes < 2 or not whole:
    raise ValueError(
        f'data.y is {y.dtype}{list(y.shape)} and prior.num_classes'
        f' {prior.num_classes}; expected integer labels [N, 1] of two classes'
        ' or more: these agents are for classification'
    )
  if found.min() < 0 or found.max() >= prior.num_classes:
    raise ValueError(
        f'data.y has labels from {found.min()} to {found.max()}, but'
        f' prior.num_classes is {prior.num_classes}'
    )
  return found


def data_objective(distribution: str = 'none') -> Objective:
  """The cross-entropy, bootstrapped or not."""
  return Objective(Xent(), noise=(Bootstrap(distribution=distribution),))


def decayed(
    prior: Prior, decay: float, adaptive: bool, distribution: str = 'none'
) -> dict[str, Objective]:
  """The cross-entropy, and the squares of all parameters over the examples."""
  factor = adaptive_factor(prior) if adaptive else 1.0
  penalty = L2Penalty(decay * factor / prior.num_train, biases=True)
  return {'data': data_objective(distribution), 'size': Objective(penalty)}


def adaptive_factor(prior: Prior) -> float:
  """What the testbed scales regularizers with, sqrt(temperature) · D."""
  return math.sqrt(prior.temperature) * prior.input_dim
