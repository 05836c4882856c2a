"""Which labels of a pool to ask for: by a priority, or by what they tell.

An acquisition is what a section of `config.active_learning.priorities` names,
its fields those of the section. `asker(pool, size)` compiles it for a pool:
`ask(variables, left, key)` has the ids of `size` examples of those left.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.active_learning.batcher import PrioritizedBatcher, check_scores
from flax_enn.active_learning.double_thompson import double_thompson
from flax_enn.active_learning.pool import Pool, concatenated
from flax_enn.active_learning.priorities import OF_NUMBERS, Priority
from flax_enn.core import Variables
from flax_enn.inference import checked_input, information

# `(variables, left [n], key) -> ids`.
Ask = Callable[[Variables, np.ndarray, jax.Array], list[int]]


class Acquisition(Protocol):
  """A way to choose the next labels."""

  def asker(self, pool: Pool, size: int) -> Ask:
    """Asks for `size` labels at a time.

    Raises:
      ValueError: it is not for such a pool, or its network.
    """
    ...


@dataclasses.dataclass(frozen=True)
class ByPriority:
  """The examples of highest priority.

  Attributes:
    priority: one of `PRIORITIES`, with the arguments that a config sets.
    name: of it.
    fields: those arguments.
  """

  priority: Priority
  name: str
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def asker(self, pool: Pool, size: int) -> Ask:
    self._check(pool.model.likelihood.num_classes)
    trainer = pool.trainer
    batcher = PrioritizedBatcher(
        pool.model,
        self.priority,
        size,
        trainer.config.eval.chunk,
        trainer.mesh,
        trainer.rules,
    )

    def ask(variables, left, key):
      index_key, key = jax.random.split(key)
      indices = pool.indices(index_key)
      found, _ = batcher(variables, indices, pool.batches(left), key)
      return left[found.id].tolist()

    return ask

  def _check(self, classes: int | None) -> None:
    """Raises a ValueError where it is not for such labels."""
    if classes is None and self.name not in OF_NUMBERS:
      raise ValueError(
          f'the priority {self.name} is for classes; of a regression, choose'
          f' from {", ".join(OF_NUMBERS)}'
      )
    values = self.fields.get('class_values')
    if values is not None and len(values) != classes:
      raise ValueError(
          f'class_values has {len(values)} numbers; expected'
          f' {"none, of a regression" if classes is None else classes}'
      )


@dataclasses.dataclass(frozen=True)
class InformationGain:
  """The examples whose labels tell most about those of others.

  The others, the targets, are drawn from what is left of the pool in each
  round; see `Predictor.information_gain`.

  Attributes:
    targets: how many.
    pairwise: the mean of the gains about single targets (EPIG, Bickford Smith
      et al., arXiv:2304.08151), which is exact; False for the gain about all of
      their labels together, which is estimated where they are many.
    num_samples: joint labels that are drawn for the estimate.
  """

  targets: int = 32
  pairwise: bool = True
  num_samples: int = 512

  def __post_init__(self):
    if self.num_samples < 2:
      raise ValueError(
          f'num_samples is {self.num_samples}; set it to 2 or more'
      )

  def asker(self, pool: Pool, size: int) -> Ask:
    checked_input.need_classes(pool.model, True, 'information_gain')

    def ask(variables, left, key):
      index_key, key = jax.random.split(key)
      indices = pool.indices(index_key)
      belief = variables, indices, jnp.zeros(len(indices))
      order = np.asarray(jax.random.permutation(key, len(left)))
      # (What stands in for one that cannot be read is an input as well.)
      targets = concatenated([*pool.read(left[order[: self.targets]])]).x
      options = {'pairwise': self.pairwise, 'num_samples': self.num_samples}
      gains = np.concatenate([
          np.where(
              batch.mask > 0,
              information.gain(
                  pool.programs, belief, batch.x, targets, **options
              ),
              -np.inf,
          )
          for batch in pool.read(left)
      ])
      check_scores(gains, left)
      return left[np.argsort(-gains, kind='stable')[:size]].tolist()

    return ask


@dataclasses.dataclass(frozen=True)
class DoubleThompson:
  """Pairs of the best item at one index and the best at another.

  For each label functions are drawn anew, see `double_thompson`. Pairs should
  share items, as those of the data set `preferences` with its field `items`; a
  pair that is in the pool several times may be asked about as often.

  Attributes:
    tries: functions, at most, that are drawn for a second item.
  """

  tries: int = 30

  def asker(self, pool: Pool, size: int) -> Ask:
    items, choose = pool.items, jax.jit(double_thompson)
    if items is None:
      raise ValueError(
          'double_thompson compares two items by their rewards; the network is'
          f' {type(pool.model.network).__name__}, for inputs'
          f' {pool.model.input_spec}. Set config.network to a section of the'
          ' name preference, and config.dataset to pairs [2, ...]'
      )

    def ask(variables, left, key):
      asked: list[int] = []
      for number in range(size):
        drawing, choosing = jax.random.split(jax.random.fold_in(key, number))
        indices = pool.indices(drawing, 1 + self.tries)
        rewards = items.rewards(variables, indices)
        rows = np.setdiff1d(left[items.mask[left] > 0], asked)
        if not len(rows):
          raise ValueError(
              f'of {len(left)} pairs that are left {len(asked)} are asked about'
              ' and the others cannot be read; repair them, or set rounds or'
              ' per_round to fewer'
          )
        # Repeated to a fixed number: it is compiled once.
        pairs = items.pairs[np.resize(rows, len(pool))]
        pair = np.asarray(choose(rewards, choosing, pairs))
        same = np.sort(items.pairs[rows], 1) == np.sort(pair)
        asked.append(int(rows[same.all(1).argmax()]))
      return asked

    return ask
