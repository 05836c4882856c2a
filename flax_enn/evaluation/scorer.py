"""Scorer: the named predictions of a model, scored on a stream of batches."""

from collections.abc import Callable, Iterable
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from flax_enn import data, sharding
from flax_enn.core import Batch, Index, Variables
from flax_enn.evaluation.eval_state import EvalState
from flax_enn.evaluation.partial import EvalCheckpoint
from flax_enn.evaluation.results import Results
from flax_enn.evaluation.studies import Predictions
from flax_enn.inference import Predictor
from flax_enn.likelihoods import Likelihood
from flax_enn.metrics import PredictiveStats
from flax_enn.model import Model
from flax_enn.sampling import reduce_over_index
from flax_enn.throttle import Throttle


@dataclasses.dataclass(frozen=True)
class Scorer:
  """Scores the predictions of one model on any data, compiled once.

  Attributes:
    model: whose likelihood has the temperature of `enn`.
    batch_size: B, examples in a batch over all processes.
    mesh: from `sharding.create_mesh`; the first device by default.
    rules: from `sharding.create_rules`.
    num_indices: N, shared by all examples.
    tau: number of labels in a joint prediction.
    chunk: indices that are mapped over at once; bounds memory.
    num_examples: how many of the examples with the highest disagreement are
      kept for the report, at most.
    base_temperature: that the base's own logits are divided by.
  """

  model: Model
  batch_size: int
  mesh: Mesh | None = None
  rules: sharding.Rules = dataclasses.field(
      default_factory=lambda: sharding.DEFAULT_RULES
  )
  num_indices: int = 1000
  tau: int = 10
  chunk: int = 100
  num_examples: int = 16
  base_temperature: float = 1.0

  def __call__(
      self,
      variables: Variables,
      batches: Iterable[Batch],
      key: jax.Array,
      *,
      partial: EvalCheckpoint | None = None,
      report: Callable[[int], Any] = lambda done: None,
  ) -> Results:
    """Scores the model with these variables.

    Args:
      variables: collections of the network, `params` among them.
      batches: numpy batches, this process's rows of each, all of one shape; the
        last one padded.
      key: that the indices are drawn from: the same for every batch, since one
        index is one function of all inputs.
      partial: keeps what was summed so far; then `batches` are those after the
        first `partial.num_batches`.
      report: is told how many batches are done.

    Returns:
      The results, the same on every process.
    """
    where = sharding.batch_sharding(self._mesh, self.rules)
    put = functools.partial(sharding.make_global_batch, where=where)
    throttle = Throttle()
    with sharding.use_mesh(self._mesh, self.rules):
      indices = self._indices(key, self.num_indices)
      state, done = None, 0
      if partial and partial.num_batches:
        done = partial.num_batches
        state = partial.restore(self.abstract_state(variables))
      for batch in data.prefetch(batches, put):
        update = self.step(variables, indices, batch)
        state = update if state is None else self._merge(state, update)
        done += 1
        throttle(state)
        report(done)
        if partial:
          partial.maybe_save(done, state)
    if state is None:
      raise ValueError('there is no batch to evaluate; the split is empty')
    if partial:
      partial.save(done, state)
    return Results.of_state(state, self.tau)

  def abstract_state(self, variables: Variables) -> EvalState:
    """The shapes of what is summed: traces all of a step, compiles nothing.

    Args:
      variables: of the network, or their shapes and shardings.
    """
    sample = self.model.network.indexer.sample
    with sharding.use_mesh(self._mesh, self.rules):
      indices = jax.eval_shape(
          lambda: sample(jax.random.key(0), self.num_indices)
      )
      # With all shardings as they will be, the step is not traced again.
      where = sharding.replicated(self._mesh)
      indices = jax.tree.map(
          lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
          indices,
      )
      where = sharding.batch_sharding(self._mesh, self.rules)
      batch = data.abstract_batch(self.model.spec, self.batch_size, where)
      return jax.eval_shape(self.step, variables, indices, batch)

  @property
  def mapped_at_once(self) -> int:
    """Indices of a chunk: all of them where there are fewer."""
    return min(self.chunk, self.num_indices)

  @functools.cached_property
  def step(self) -> Any:
    """`(variables, indices, batch) -> EvalState`, compiled on first use."""

    def step(variables: Variables, indices: Index, batch: Batch) -> EvalState:
      return EvalState.of_batch(
          self._predictive(variables, indices, batch),
          batch,
          self.model.likelihood,
          self.num_examples,
      )

    return self._jit(step)

  def collect(
      self,
      variables: Variables,
      batches: Iterable[Batch],
      key: jax.Array,
      *,
      report: Callable[[int], Any] = lambda done: None,
  ) -> dict[str, Predictions]:
    """The mean predictions for every example, by model, for a study.

    They are kept on every host: M x C numbers for M examples.

    Args:
      variables: as in a call.
      batches: as in a call.
      key: as in a call.
      report: is told how many batches are done.
    """
    where = sharding.batch_sharding(self._mesh, self.rules)
    put = functools.partial(sharding.make_global_batch, where=where)
    found = []
    with sharding.use_mesh(self._mesh, self.rules):
      indices = self._indices(key, self.num_indices)
      for done, batch in enumerate(data.prefetch(batches, put), start=1):
        values = jax.device_get(self._examples(variables, indices, batch))
        real = values.pop('mask') > 0
        found.append(jax.tree.map(lambda a, real=real: a[real], values))
        report(done)
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
    y, epistemic = joined.pop('y'), joined.pop('epistemic')
    return {
        name: Predictions(y, probs, epistemic if name == 'enn' else None)
        for name, probs in joined.items()
    }

  @functools.cached_property
  def _examples(self) -> Any:
    """What of a batch is collected, compiled on first use."""

    def examples(variables: Variables, indices: Index, batch: Batch) -> Any:
      predictive = self._predictive(variables, indices, batch)
      return {
          'y': batch.y,
          'mask': batch.mask,
          'epistemic': predictive['enn'].disagreement,
          **{name: stats.preds for name, stats in predictive.items()},
      }

    return self._jit(examples)

  def _predictive(
      self, variables: Variables, indices: Index, batch: Batch
  ) -> dict[str, PredictiveStats]:
    """The statistics of each named prediction for a batch."""
    first = jax.tree.map(lambda leaf: leaf[0], indices)
    base = self._apply(variables, batch.x, first).base
    predictions = {}
    if base is not None:  # free of the index: one is enough
      likelihood = self.model.likelihood.tempered(self.base_temperature)
      predictions['base'] = self._zeros(likelihood).update(
          likelihood, base[None], batch.y
      )
    likelihood = self.model.likelihood
    predictions['enn'] = reduce_over_index(
        lambda index: self._apply(variables, batch.x, index).preds,
        indices,
        init=self._zeros(likelihood),
        reduce=lambda s, outputs: s.update(likelihood, outputs, batch.y),
        chunk=self.mapped_at_once,
    )
    return predictions

  def predictor(
      self, variables: Variables, key: jax.Array, n: int
  ) -> Predictor:
    """With the first n of the indices that a call with this key scores."""
    with sharding.use_mesh(self._mesh, self.rules):
      indices = self._indices(key, n)
    return Predictor.create(
        self.model, variables, indices, mesh=self._mesh, rules=self.rules
    )

  @functools.cached_property
  def _mesh(self) -> Mesh:
    if self.mesh is None:
      return sharding.create_mesh({}, jax.local_devices()[:1])
    return self.mesh

  def _jit(self, fn: Callable[..., Any], **options: Any) -> Any:
    """Compiles `fn`, whose results are replicated."""
    where = sharding.replicated(self._mesh)
    return jax.jit(fn, out_shardings=where, **options)

  @functools.cached_property
  def _indices(self) -> Any:
    sample = self.model.network.indexer.sample
    return self._jit(lambda key, n: sample(key, n), static_argnums=1)

  @functools.cached_property
  def _merge(self) -> Any:
    return self._jit(EvalState.merge)

  def _apply(self, variables: Variables, x: Any, index: Index) -> Any:
    return self.model.apply(variables, x, index)

  def _zeros(self, likelihood: Likelihood) -> PredictiveStats:
    return PredictiveStats.zeros(likelihood, self.batch_size, self.tau)
