"""The loop of active learning: train, evaluate, ask for labels, and again.

  config.active_learning = dict(
      priorities=('bald', 'uniform'),  # each learns by itself
      start=20,      # labels to begin with, drawn at random
      per_round=10,  # labels that a round asks for
      rounds=6,
      seeds=3,       # repetitions: config.seed, and the numbers after it
  )

The training split is the pool, whose labels are hidden until they are asked
for. Each round trains from the same first state, for `config.num_steps`.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import functools
from typing import Any

from etils import epath
import jax
import ml_collections
import numpy as np

from flax_enn import annotations, build, data, sharding
from flax_enn.active_learning.batcher import PrioritizedBatcher
from flax_enn.active_learning.priorities import PRIORITIES
from flax_enn.checkpoints import warm_start
from flax_enn.core import Variables
from flax_enn.data.base import Source, Wrapped, chosen
from flax_enn.model import num_eval_indices, run_keys
from flax_enn.throttle import Throttle
from flax_enn.training.state import TrainState
from flax_enn.training.trainer import Trainer

PATH = 'config.active_learning'
# What a round leaves: `labels`, how many there were; the metrics of the
# network; `asked`, the ids in the training split that it asked for.
Round = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Recipe:
  """The section `config.active_learning`, see above."""

  priorities: Sequence[str] = ('bald', 'uniform')
  start: int = 20
  per_round: int = 10
  rounds: int = 6
  seeds: int = 3

  @classmethod
  def from_config(cls, config: ml_collections.ConfigDict) -> 'Recipe':
    """Checks the section.

    Raises:
      ValueError: what was found, what was expected, and the field to change.
    """
    if config.active_learning is None:
      raise ValueError(
          f"{PATH} is None; set it to a section such as {{'priorities':"
          " ('bald', 'uniform'), 'start': 20, 'per_round': 10, 'rounds': 6}"
      )
    fields, hints = dict(config.active_learning), annotations.fields_of(cls)
    build.check_names(fields, hints, PATH, 'active learning')
    for name, value in fields.items():
      annotations.checked(value, hints[name], f'{PATH}.{name}')
    recipe = cls(**fields)
    for name in ('start', 'per_round', 'rounds', 'seeds'):
      if getattr(recipe, name) < 1:
        raise ValueError(
            f'{PATH}.{name} is {getattr(recipe, name)}; set it to 1 or more'
        )
    for name in recipe.priorities:
      if name not in PRIORITIES:
        known = build.choices(name, sorted(PRIORITIES))
        raise ValueError(f'{PATH}.priorities has {name!r}{known}')
    if not recipe.priorities:
      raise ValueError(f'{PATH}.priorities is empty; name at least one')
    return recipe


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Part(Wrapped):
  """A data set of whose training split some examples are there.

  Attributes:
    source: its training split.
    rows: `[n]` those that are there.
  """

  source: Source
  rows: np.ndarray

  def load(self, split: str) -> Source:
    if split != 'train':
      return self.dataset.load(split)
    return chosen(self.source, self.rows)

  def __repr__(self) -> str:
    return f'{len(self.rows)} examples of {self.dataset}'


class Learner:
  """Learns by any priority from any seed; each program is compiled once."""

  def __init__(self, trainer: Trainer, recipe: Recipe, workdir: epath.PathLike):
    """Opens the pool.

    Args:
      trainer: of the network.
      recipe: what to ask for.
      workdir: that `config.init` is relative to.

    Raises:
      ValueError: the pool has too few examples, or a batch too many.
    """
    self._trainer, self._recipe, self._workdir = trainer, recipe, workdir
    loader = trainer.loader
    self._loader = dataclasses.replace(loader, holdout=0.0)  # it is taken out
    self._rows = loader.source(trainer.dataset, 'train').rows
    self._pool = trainer.dataset.load('train')
    self._first: dict[int, TrainState] = {}
    self._batchers = {
        name: PrioritizedBatcher(
            trainer.model,
            PRIORITIES[name],
            recipe.per_round,
            trainer.config.eval.chunk,
            trainer.mesh,
            trainer.rules,
        )
        for name in recipe.priorities
    }
    most = recipe.start + recipe.rounds * recipe.per_round
    if most > len(self._rows):
      raise ValueError(
          f'{PATH} asks for {most} labels in the end, but {trainer.dataset} has'
          f' {len(self._rows)} training examples; lower start, per_round or'
          ' rounds'
      )
    if trainer.config.batch_size > recipe.start:
      raise ValueError(
          f'config.batch_size is {trainer.config.batch_size}, but {PATH}.start'
          f' is {recipe.start}; set batch_size to that or less'
      )

  def rounds(
      self, priority: str, seed: int, done: Sequence[Round] = ()
  ) -> Iterator[Round]:
    """Does the rounds that are left, one by one.

    Args:
      priority: name of it.
      seed: of the first labels, the first state, and the order of training.
      done: the rounds that were done before.
    """
    order = np.random.default_rng(seed).permutation(len(self._rows))
    known = order[: self._recipe.start].tolist()
    known += [i for one in done for i in one['asked']]
    for number in range(len(done), self._recipe.rounds + 1):
      variables = self._train(known, seed)
      asked: list[int] = []
      if number < self._recipe.rounds:
        key = jax.random.fold_in(jax.random.key(seed), number)
        asked = self._ask(priority, variables, known, key)
      metrics = self._evaluate(variables)
      yield {'labels': len(known), **metrics, 'asked': asked}
      known = known + asked

  def _train(self, known: Sequence[int], seed: int) -> Variables:
    """Variables that were trained on the known labels."""
    trainer, state = self._trainer, self._first_state(seed)
    batches = self._loader.train_batches(
        self._part(known),
        trainer.model.spec,
        batch_size=trainer.config.batch_size,
        seed=seed,
    )
    put = functools.partial(
        sharding.make_global_batch, where=trainer.batch_sharding
    )
    throttle, n = Throttle(), len(known)
    for _, batch in zip(
        range(trainer.config.num_steps), data.prefetch(batches, put)
    ):
      state, logs = self._step(state, batch, n)
      throttle(logs)
    if (bad := int(state.first_nonfinite_step)) >= 0:
      raise FloatingPointError(
          f'the loss, its gradient or the update was not finite in step {bad}'
          f' on {n} labels; lower config.optimizer.learning_rate or set'
          ' config.optimizer.clip_norm'
      )
    return state.variables

  def _evaluate(self, variables: Variables) -> dict[str, float]:
    """The metrics of the network on the run's own evaluation."""
    own = self._trainer.evaluations[0]
    batches = own.loader.eval_batches(
        own.dataset, own.split, own.spec, batch_size=own.scorer.batch_size
    )
    key = run_keys(self._trainer.config.seed)['evaluation']
    return dict(own.scorer(variables, batches, key).metrics['enn'])

  def _ask(
      self,
      priority: str,
      variables: Variables,
      known: Sequence[int],
      key: jax.Array,
  ) -> list[int]:
    """The ids of the examples of highest priority."""
    trainer, model = self._trainer, self._trainer.model
    left = np.setdiff1d(np.arange(len(self._rows)), known)
    pool = self._loader.eval_batches(
        self._part(left),
        'train',
        model.spec,
        batch_size=trainer.config.batch_size,
    )
    index_key, key = jax.random.split(key)
    indices = model.network.indexer.sample(
        index_key, num_eval_indices(trainer.config, model)
    )
    examples, _ = self._batchers[priority](variables, indices, pool, key)
    return left[examples.id].tolist()

  def _part(self, ids: Any) -> Part:
    """The data set with these examples of the training split alone."""
    return Part(self._trainer.dataset, self._pool, self._rows[ids])

  def _first_state(self, seed: int) -> TrainState:
    """The state before training, that of the last seed kept for all rounds."""
    if seed not in self._first:
      trainer = self._trainer
      state = trainer.create_state(seed)
      state = warm_start(state, trainer.config.init, self._workdir)
      self._first = {seed: state}
    return self._first[seed]

  @functools.cached_property
  def _step(self) -> Any:
    # The number of labels is an argument: one program serves all rounds. The
    # state is not donated: the first one is that of every round.
    step = self._trainer.bound_step(1)
    return jax.jit(lambda state, batch, n: step(state, batch, num_examples=n))
