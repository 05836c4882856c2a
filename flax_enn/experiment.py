"""Experiment: trains a network in memory, in a notebook or a script.

Nothing is written. It is the step of `flax_enn.training` on one device; a run
that is saved, resumed, or spread over a mesh is a config for `train.py`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import numpy as np
import optax

from flax_enn import build
from flax_enn.core import Batch, EpistemicNetwork
from flax_enn.data import Dataset, Loader
from flax_enn.data.in_memory import Pair, data_set_of
from flax_enn.evaluation.evaluation import preprocess_of
from flax_enn.evaluation.scorer import Scorer
from flax_enn.inference import checked_input
from flax_enn.likelihoods import Likelihood
from flax_enn.loggers import Logger, TerminalLogger
from flax_enn.losses import Context, Objective
from flax_enn.losses.objective import named
from flax_enn.model import Model, init_variables, run_keys
from flax_enn.throttle import Throttle
from flax_enn.training.state import TrainState, init_state
from flax_enn.training.step import total_loss, train_step

# Where the index has no finite support: in a step, and in an evaluation.
_NUM_INDICES = 8
_EVAL_INDICES = 100


class Experiment:
  """Trains a network on data in memory, and answers for it.

  As enn's `supervised.Experiment` and `MultilossExperiment`, whose trainers are
  named objectives here.

  Attributes:
    network: that is trained.
    dataset: that is trained on; arrays have become one.
    likelihood: what its outputs mean.
    state: after the steps so far.
  """

  def __init__(
      self,
      network: EpistemicNetwork,
      objectives: Mapping[str, Objective] | Objective | Callable[..., Any],
      optimizer: optax.GradientTransformation,
      dataset: Dataset | Pair,
      seed: int = 0,
      logger: Logger | None = None,
      eval_datasets: Mapping[str, Dataset | Pair] | None = None,
      train_log_every: int = 1,
      eval_log_every: int = 1,
      *,
      batch_size: int = 100,
      num_indices: int | None = None,
      likelihood: Likelihood | None = None,
  ):
    """Draws the first state.

    Args:
      network: any epistemic network.
      objectives: what is minimised, by name; or one, or a loss alone.
      optimizer: of the parameters.
      dataset: whose training split is trained on, or arrays (x, y).
      seed: of parameters, order of the data and indices.
      logger: a `TerminalLogger` by default.
      eval_datasets: by name, whose test splits (or arrays) are scored while
        training, with the metrics of the likelihood.
      train_log_every: steps from one logged step to the next.
      eval_log_every: steps from one evaluation to the next.
      batch_size: B, at most the number of examples.
      num_indices: N of a step; all of a finite support by default, else 8.
      likelihood: what outputs mean; that of the data by default.

    Raises:
      ValueError: the data do not fit together.
    """
    for name, value in (
        ('train_log_every', train_log_every),
        ('eval_log_every', eval_log_every),
        ('batch_size', batch_size),
        ('num_indices', 1 if num_indices is None else num_indices),
    ):
      _check_count(name, value, least=1)
    if not isinstance(network, EpistemicNetwork):
      raise ValueError(
          f'network is {type(network).__name__}, which has no `indexer`; a'
          ' backbone becomes a network by Deterministic, Epinet, Ensemble …'
      )
    self.network = network
    self.dataset = data_set_of(dataset, 'dataset')
    self.likelihood = likelihood or self.dataset.likelihood
    self._logger = logger or TerminalLogger()
    self._every = train_log_every, eval_log_every
    self._loader = Loader()
    spec = dataclasses.replace(self.dataset.spec, likelihood=self.likelihood)
    n = self._num_examples = len(self._loader.source(self.dataset, 'train'))
    self._batches = self._loader.train_batches(
        self.dataset, spec, batch_size=min(batch_size, n), seed=seed
    )
    self._objectives = named(objectives)
    self._num_indices = num_indices or network.indexer.size or _NUM_INDICES
    self._step = jax.jit(
        lambda state, batch: train_step(
            state,
            batch,
            network=network,
            objectives=self._objectives,
            tx=optimizer,
            likelihood=self.likelihood,
            num_examples=n,
            num_indices=self._num_indices,
        )
    )  # The state is not donated: a notebook may keep that of an earlier step.
    self._predict = jax.jit(self._predict_at)
    self._loss = jax.jit(self._loss_at)
    model = Model(network, self.likelihood, self.dataset.input_spec)
    self._scorers = {
        name: (data, self._scorer(model, data))
        for name, found in (eval_datasets or {}).items()
        for data in [data_set_of(found, f'eval_datasets[{name!r}]')]
    }
    x = model.dummy_input()
    _check_width(model, x)
    init = jax.jit(lambda: nn.unbox(init_state(network, optimizer, seed, x)))
    self.state: TrainState = init()

  @property
  def step(self) -> int:
    """Number of steps so far."""
    return int(self.state.step)

  def train(self, num_steps: int) -> None:
    """Does so many more steps, and logs on the way.

    Raises:
      FloatingPointError: the loss or its gradient stopped being finite.
    """
    _check_count('num_steps', num_steps, least=0)
    throttle = Throttle()
    train_every, eval_every = self._every
    start = self.step
    for step in range(start + 1, start + num_steps + 1):
      batch = next(self._batches)
      self.state, logs = self._step(self.state, batch)
      throttle(logs)
      if step % train_every == 0:
        self._logger.write({'dataset': 'train', 'step': step, **logs})
      if step % eval_every == 0:
        for name in self._scorers:
          values = self.evaluate(name)
          self._logger.write({'dataset': name, 'step': step, **values})
    self._logger.flush()
    bad = int(self.state.first_nonfinite_step)
    if bad >= 0:
      raise FloatingPointError(
          f'the loss, its gradient or the update was not finite in step {bad};'
          ' lower the learning rate of the optimizer'
      )

  def evaluate(self, name: str) -> dict[str, float]:
    """The metrics of one of the `eval_datasets`, at 100 indices or all."""
    if name not in self._scorers:
      raise ValueError(
          f'there is no {name!r} in eval_datasets, which has'
          f' {sorted(self._scorers)}'
      )
    data, scorer = self._scorers[name]
    batches = self._loader.eval_batches(
        data, 'test', scorer.model.spec, batch_size=scorer.batch_size
    )
    results = scorer(self.state.variables, batches, jax.random.key(0))
    return dict(results.metrics['enn'])

  def predict(self, x: Any, key: jax.Array) -> jax.Array:
    """Outputs `[B, C]` of the function at one index, drawn from the key.

    The same key is the same function of all inputs. It can be traced. x is as
    the network takes it: after the data's `preprocess`.

    Raises:
      ValueError: x has another form.
    """
    self._check(x)
    return self._predict(self.state.variables, x, key)

  def loss(self, batch: Batch, key: jax.Array) -> jax.Array:
    """The weighted sum of the objectives `[]`, at indices from the key.

    The inputs are as in `predict`.
    """
    self._check(batch.x)
    return self._loss(self.state, batch, key)

  def _check(self, x: Any) -> None:
    form = jax.eval_shape(lambda x: x, x)
    checked_input.check_form(self.dataset.input_spec, form)

  def _predict_at(self, variables: Any, x: Any, key: jax.Array) -> jax.Array:
    index = self.network.indexer.sample(key, 1)[0]
    return self.network.apply(variables, x, index).preds

  def _scorer(self, model: Model, data: Dataset) -> Scorer:
    preprocess = preprocess_of(data, self.dataset, self.dataset.preprocess)
    return Scorer(
        model=dataclasses.replace(model, preprocess=preprocess),
        batch_size=min(len(self._loader.source(data, 'test')), 1000),
        num_indices=model.network.indexer.size or _EVAL_INDICES,
    )

  def _loss_at(
      self, state: TrainState, batch: Batch, key: jax.Array
  ) -> jax.Array:
    index_key, inputs_key = jax.random.split(key)
    total, _ = total_loss(
        self.network,
        self._objectives,
        state.variables,
        batch,
        self.network.indexer.sample(index_key, self._num_indices),
        inputs_key,
        Context(state.step, self._num_examples, self.likelihood),
    )
    return total


def _check_count(name: str, value: Any, least: int) -> None:
  if not isinstance(value, (int, np.integer)) or value < least:
    raise ValueError(f'{name} is {value}; it is an integer of at least {least}')


def _check_width(model: Model, x: Any) -> None:
  """Raises a ValueError where outputs are not those of the likelihood."""

  def outputs() -> jax.Array:
    keys, network = run_keys(0), model.network
    index = network.indexer.sample(keys['index'], 1)[0]
    variables = init_variables(network, keys, x)
    return model.likelihood.checked(network.apply(variables, x, index).preds)

  with build.located(f'network {type(model.network).__name__}'):
    jax.eval_shape(outputs)
