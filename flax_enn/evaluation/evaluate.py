"""Evaluator: a network, its base beside it, on a stream of batches."""

import collections
from collections.abc import Iterable
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from flax_enn import data, metrics, sharding
from flax_enn.core import Batch, Index, Output, Variables
from flax_enn.evaluation.progress import Log, Progress
from flax_enn.evaluation.results import Results
from flax_enn.evaluation.totals import Moments, Totals, batch_totals
from flax_enn.sampling import over_index, reduce_over_index

_IN_FLIGHT = 2  # batches; without a limit the whole split would queue up


@dataclasses.dataclass(frozen=True)
class Evaluator:
  """Evaluates one network on any number of splits, compiled once.

  Attributes:
    network: any `EpistemicNetwork`.
    dataset: says whether to classify, or how noisy the targets are.
    num_indices: N, shared by all examples.
    tau: number of labels in a joint prediction.
    chunk: indices that are mapped over at once; bounds memory.
    mesh: from `sharding.create_mesh`; the first device by default.
    num_examples: how many of the examples with the highest disagreement are
      kept for the report, at most.
    temperature: that all logits of the network are divided by (1 in
      regression).
    base_temperature: the same of the base's own logits, where there is a base.
  """

  network: Any
  dataset: data.Dataset
  num_indices: int = 1000
  tau: int = 10
  chunk: int = 100
  mesh: Mesh | None = None
  num_examples: int = 16
  temperature: float = 1.0
  base_temperature: float = 1.0

  def __call__(
      self,
      variables: Variables,
      batches: Iterable[Batch],
      key: jax.Array,
      *,
      num_batches: int | None = None,
      progress: Progress | None = None,
  ) -> Results:
    """Evaluates the network with these variables.

    Args:
      variables: collections of the network, `params` among them.
      batches: numpy batches, this host's rows of each, all of one shape; the
        last one padded.
      key: that the indices are drawn from: the same for every batch, since one
        index is one function of all inputs.
      num_batches: how many there are, if known, for the time that is left.
      progress: keeps what was summed so far; then `batches` are those after the
        first `progress.done`. To be removed once the results are safe.

    Returns:
      The results, the same on every host.
    """
    put = functools.partial(sharding.put_batch, mesh=self._mesh)
    totals, waiting = None, collections.deque()
    first = progress.done if progress else 0
    log = Log(first, num_batches)
    with jax.set_mesh(self._mesh):
      indices = self._indices(key, self.num_indices)
      for done, batch in enumerate(data.prefetch(batches, put), first):
        if progress and totals is None:
          like = jax.eval_shape(self._step, variables, indices, batch)
          totals = progress.restore(like)
        elif progress:
          # Here, so that what is kept always leaves a batch to go on with.
          progress.keep(done, totals)
        update = self._step(variables, indices, batch)
        totals = update if totals is None else self._merge(totals, update)
        waiting.append(totals)
        if len(waiting) > _IN_FLIGHT:
          jax.block_until_ready(waiting.popleft())
        log(done + 1)
    if totals is None:
      raise ValueError(
          'there is no batch to evaluate; the split is empty. Check'
          ' config.dataset'
      )
    return self._results(totals)

  def predict(
      self, variables: Variables, x: Any, key: jax.Array, n: int = 100
  ) -> np.ndarray:
    """What n indices say of a few inputs.

    Args:
      variables: as in a call.
      x: `[B, ...]` numpy inputs, the same on every host.
      key: that the indices are drawn from; with the key of a call, index i is
        index i of that call.
      n: number of indices N.

    Returns:
      `[N, B, C]` probabilities, or values of f(x, z) in regression.
    """
    rows = len(jax.tree.leaves(x)[0])
    with jax.set_mesh(self._mesh):
      # Whole rows for every device: the last input is repeated.
      whole = np.minimum(np.arange(_up(rows, self._mesh.size)), rows - 1)
      x = jax.tree.map(lambda leaf: np.asarray(leaf)[whole], x)
      x = jax.device_put(x, sharding.replicated(self._mesh))
      indices = self._indices(key, n)
      return np.asarray(self._predict(variables, indices, x))[:, :rows]

  @functools.cached_property
  def _mesh(self) -> Mesh:
    if self.mesh is None:
      return sharding.create_mesh({}, jax.local_devices()[:1])
    return self.mesh

  def _jit(self, fn, **options):
    """Compiles `fn`; its results are whole on every device of every host."""
    whole = sharding.replicated(self._mesh)
    return jax.jit(fn, out_shardings=whole, **options)

  @functools.cached_property
  def _indices(self):
    def draw(key, n):
      return self.network.indexer.sample(key, n)

    return self._jit(draw, static_argnums=1)

  @functools.cached_property
  def _merge(self):
    return self._jit(Totals.merge)

  @functools.cached_property
  def _predict(self):
    def predict(variables, indices, x):
      preds = over_index(
          lambda index: self._preds(variables, x, index), indices
      )
      return jax.nn.softmax(preds) if self._classifies else preds

    return self._jit(predict)

  @functools.cached_property
  def _step(self):
    def step(variables: Variables, indices: Index, batch: Batch) -> Totals:
      one = self._apply(variables, batch.x, indices[0])
      none = self._zeros(one.train.shape)
      moments = {}
      if 'base' in one.extra:
        # Free of the index: one says all.
        base = one.extra['base'] / self.base_temperature
        moments['base'] = self._fold(none, base[None], batch)
      moments['enn'] = reduce_over_index(
          lambda index: self._preds(variables, batch.x, index),
          indices,
          init=none,
          reduce=functools.partial(self._fold, batch=batch),
          chunk=min(self.chunk, self.num_indices),
      )
      return batch_totals(moments, batch, self.num_examples)

    return self._jit(step)

  def _apply(self, variables: Variables, x: Any, index: Index) -> Output:
    return self.network.apply(variables, x, index, train=False)

  def _preds(self, variables: Variables, x: Any, index: Index) -> jax.Array:
    return self._apply(variables, x, index).preds / self.temperature

  @property
  def _classifies(self) -> bool:
    return self.dataset.task == 'classification'

  def _zeros(self, shape: tuple[int, ...]) -> Moments:
    """The moments of no index, for predictions of shape [B, C]."""
    batch_size, outputs = shape
    if self._classifies:
      return metrics.ClassificationMoments.zeros(batch_size, outputs, self.tau)
    return metrics.RegressionMoments.zeros(batch_size, outputs, self.tau)

  def _fold(
      self, moments: Moments, preds: jax.Array, batch: Batch
  ) -> Moments:
    """Adds what a chunk of indices says, `[n, B, C]`."""
    if isinstance(moments, metrics.ClassificationMoments):
      return moments.update(preds, batch.y)
    return moments.update(preds, batch.y, self.dataset.noise_std)

  def _results(self, totals: Totals) -> Results:
    totals = jax.device_get(totals)
    examples = totals.examples
    real = examples.disagreement > -np.inf
    with np.errstate(invalid='ignore'):  # The average of nothing is NaN.
      computed = {k: v.compute() for k, v in totals.metrics.items()}
    return Results(
        metrics={
            who: {name: float(value) for name, value in values.items()}
            for who, values in computed.items()
        },
        task=self.dataset.task,
        tau=self.tau,
        calibration={
            who: {k: np.asarray(v) for k, v in vars(ece).items()}
            for who, collection in totals.metrics.items()
            if isinstance(ece := getattr(collection, 'ece', None), metrics.ECE)
        },
        disagreement=np.asarray(totals.disagreement)
        if self._classifies
        else None,
        examples=jax.tree.map(
            lambda leaf: leaf[real],
            {**examples.values, 'disagreement': examples.disagreement},
        ),
    )


def _up(number: int, multiple: int) -> int:
  return -(-number // multiple) * multiple
