"""The loop of active learning: train, evaluate, ask for labels, and again.

What is compared is `config.active_learning`, see `recipe`. The training split
is the pool, whose labels are hidden until they are asked for. Each round trains
from the same first state, for `config.num_steps`.
"""

from collections.abc import Iterator, Sequence
import functools
from typing import Any

from etils import epath
import jax
import numpy as np

from flax_enn import build, data, sharding
from flax_enn.active_learning.pool import Pool
from flax_enn.active_learning.recipe import PATH, Recipe
from flax_enn.checkpoints import warm_start
from flax_enn.core import Variables
from flax_enn.model import run_keys
from flax_enn.throttle import Throttle
from flax_enn.training.state import TrainState
from flax_enn.training.trainer import Trainer

# What a round leaves: `labels`, how many there were; the metrics of the
# network; `asked`, the ids in the training split that it asked for.
Round = dict[str, Any]


class Learner:
  """Learns by any priority from any seed; each program is compiled once."""

  def __init__(self, trainer: Trainer, recipe: Recipe, workdir: epath.PathLike):
    """Opens the pool.

    Args:
      trainer: of the network.
      recipe: what to ask for.
      workdir: that `config.init` is relative to.

    Raises:
      ValueError: the pool has too few examples, a batch too many, or a priority
        is not for such a pool.
    """
    self._trainer, self._recipe, self._workdir = trainer, recipe, workdir
    self._pool = pool = Pool(trainer)
    self._first: dict[int, TrainState] = {}
    most = recipe.start + recipe.rounds * recipe.per_round
    if most > len(self._pool):
      raise ValueError(
          f'{PATH} asks for {most} labels in the end, but {trainer.dataset} has'
          f' {len(self._pool)} training examples; lower start, per_round or'
          ' rounds'
      )
    if trainer.config.batch_size > recipe.start:
      raise ValueError(
          f'config.batch_size is {trainer.config.batch_size}, but {PATH}.start'
          f' is {recipe.start}; set batch_size to that or less'
      )
    self._ask = {}
    for name, acquisition in recipe.priorities.items():
      with build.located(f'{PATH}.priorities ({name})'):
        self._ask[name] = acquisition.asker(pool, recipe.per_round)

  def rounds(
      self, priority: str, seed: int, done: Sequence[Round] = ()
  ) -> Iterator[Round]:
    """Does the rounds that are left, one by one.

    Args:
      priority: name of it.
      seed: of the first labels, the first state, and the order of training.
      done: the rounds that were done before.
    """
    order = np.random.default_rng(seed).permutation(len(self._pool))
    known = order[: self._recipe.start].tolist()
    known += [i for one in done for i in one['asked']]
    for number in range(len(done), self._recipe.rounds + 1):
      variables = self._train(known, seed)
      asked: list[int] = []
      if number < self._recipe.rounds:
        key = jax.random.fold_in(jax.random.key(seed), number)
        left = np.setdiff1d(np.arange(len(self._pool)), known)
        asked = self._ask[priority](variables, left, key)
      metrics = self._evaluate(variables)
      yield {'labels': len(known), **metrics, 'asked': asked}
      known = known + asked

  def _train(self, known: Sequence[int], seed: int) -> Variables:
    """Variables that were trained on the known labels."""
    trainer, state = self._trainer, self._first_state(seed)
    batches = self._pool.loader.train_batches(
        self._pool.part(known),
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
    """The metrics of the network on the run's own evaluation.

    Where it has rewards of items, also the regret of the best item of the pool.
    """
    own = self._trainer.evaluations[0]
    batches = own.loader.eval_batches(
        own.dataset, own.split, own.spec, batch_size=own.scorer.batch_size
    )
    key = run_keys(self._trainer.config.seed)['evaluation']
    metrics = dict(own.scorer(variables, batches, key).metrics['enn'])
    if items := self._pool.items:
      metrics['regret'] = items.regret(variables, self._pool.indices(key))
    return metrics

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
