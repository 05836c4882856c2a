"""Experiment: trains a network in memory, in a notebook or a script.

Nothing is written. It is the step of `flax_enn.training` on one device; a run
that is saved, resumed, or spread over a mesh is a config for `train.py`.
"""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flax_enn.core import Batch, EpistemicNetwork
from flax_enn.data import ArraySource, Dataset, Loader
from flax_enn.evaluation.scorer import Scorer
from flax_enn.likelihoods import Categorical, Gaussian, Likelihood
from flax_enn.loggers import Logger, TerminalLogger
from flax_enn.losses import Context, Objective
from flax_enn.model import Model
from flax_enn.throttle import Throttle
from flax_enn.training.state import TrainState, init_state
from flax_enn.training.step import total_loss, train_step

# Arrays `x [B, ...]` and `y`: labels `[B]` or targets `[B, C]`.
Pair = tuple[Any, Any]

# Where the index has no finite support: in a step, and in an evaluation.
_NUM_INDICES = 8
_EVAL_INDICES = 100


class Experiment:
  """Trains a network on data in memory, and answers for it.

  As enn's `supervised.Experiment` and `MultilossExperiment`, whose trainers are
  named objectives here.

  Attributes:
    network: that is trained.
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
    ):
      if value < 1:
        raise ValueError(f'{name} is {value}; it must be at least 1')
    self.network = network
    self._data = _dataset(dataset, 'dataset')
    self.likelihood = likelihood or self._data.likelihood
    self._logger = logger or TerminalLogger()
    self._every = train_log_every, eval_log_every
    size = network.indexer.size
    self._loader = Loader()
    spec = dataclasses.replace(self._data.spec, likelihood=self.likelihood)
    n = len(self._loader.source(self._data, 'train'))
    self._batches = self._loader.train_batches(
        self._data, spec, batch_size=min(batch_size, n), seed=seed
    )
    self._objectives = _named(objectives)
    self._num_examples = n
    self._num_indices = num_indices or size or _NUM_INDICES
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
    model = Model(network, self.likelihood, self._data.input_spec)
    self._scorers = {
        name: (data, _scorer(model, data, self._loader))
        for name, found in (eval_datasets or {}).items()
        for data in [_dataset(found, f'eval_datasets[{name!r}]')]
    }
    x = model.dummy_input()
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
    data, scorer = self._scorers[name]
    batches = self._loader.eval_batches(
        data, 'test', scorer.model.spec, batch_size=scorer.batch_size
    )
    results = scorer(self.state.variables, batches, jax.random.key(0))
    return dict(results.metrics['enn'])

  def predict(self, x: Any, key: jax.Array) -> jax.Array:
    """Outputs `[B, C]` of the function at one index, drawn from the key.

    The same key is the same function of all inputs. It can be traced.
    """
    return self._predict(self.state.variables, x, key)

  def loss(self, batch: Batch, key: jax.Array) -> jax.Array:
    """The weighted sum of the objectives `[]`, at indices from the key."""
    return self._loss(self.state, batch, key)

  def _predict_at(self, variables: Any, x: Any, key: jax.Array) -> jax.Array:
    index = self.network.indexer.sample(key, 1)[0]
    return self.network.apply(variables, x, index).preds

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


def _named(objectives: Any) -> dict[str, Objective]:
  if isinstance(objectives, Mapping):
    return dict(objectives)
  if not isinstance(objectives, Objective):
    objectives = Objective(objectives)
  return {'data': objectives}


def _scorer(model: Model, data: Dataset, loader: Loader) -> Scorer:
  size = model.network.indexer.size
  n = len(loader.source(data, 'test'))
  return Scorer(
      model=model, batch_size=min(n, 1000), num_indices=size or _EVAL_INDICES
  )


def _dataset(found: Dataset | Pair, name: str) -> Dataset:
  """A data set, or one of two arrays."""
  if isinstance(found, Dataset):
    return found
  x, y = (np.asarray(a) for a in found)
  if not len(x) or len(x) != len(y):
    raise ValueError(
        f'{name} has x of shape {list(x.shape)} and y of {list(y.shape)};'
        ' expected as many examples in both, and at least one'
    )
  if not np.issubdtype(y.dtype, np.integer) and y.ndim != 2:
    raise ValueError(
        f'{name} has y {y.dtype}{list(y.shape)}; expected integer labels [B],'
        ' or float targets [B, C]'
    )
  return _Pair(ArraySource(x.astype(np.float32), _targets(y)))


def _targets(y: np.ndarray) -> np.ndarray:
  if np.issubdtype(y.dtype, np.integer):
    return y.astype(np.int32).reshape(len(y))
  return y.astype(np.float32)


@dataclasses.dataclass(frozen=True, repr=False)
class _Pair(Dataset):
  """Arrays as both splits of a data set."""

  source: ArraySource

  @property
  def input_spec(self) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(self.source.x.shape[1:], jnp.float32)

  @property
  def likelihood(self) -> Likelihood:
    y = self.source.y
    return Gaussian(y.shape[1]) if y.ndim > 1 else Categorical(int(y.max()) + 1)

  def load(self, split: str) -> ArraySource:
    del split
    return self.source

  def __repr__(self) -> str:
    return f'arrays of {len(self.source)} examples'
