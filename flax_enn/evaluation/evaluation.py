"""Evaluation: which data a model is scored on, and how."""

from collections.abc import (
    Callable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
import dataclasses
import functools
import math
from types import MappingProxyType
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from flax_enn import build, kinds, sharding
from flax_enn.core import Batch, Variables
from flax_enn.data import Dataset, DataSpec, Loader, Preprocess
from flax_enn.data.features import check_base
from flax_enn.data_section import (
    create_dataset,
    create_loader,
    located_batches,
)
from flax_enn.evaluation.partial import EvalCheckpoint
from flax_enn.evaluation.results import Results
from flax_enn.evaluation.scorer import Scorer
from flax_enn.evaluation.studies import Predictions, Study
from flax_enn.metric_writers import clu_imports
from flax_enn.model import Model, num_eval_indices

STUDY = kinds.Kind(
    'a study',
    'flax_enn.evaluation.studies',
    lambda cls: issubclass(cls, Study),
)
_POINTS = 400  # training examples in a report


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Which data a model is scored on, and how.

  Attributes:
    name: in `results.json`: the split for a run's own evaluation, the key in
      `config.evals` for others.
    scorer: of the model.
    dataset: that is read.
    loader: that reads it.
    spec: what its data must be, and their preprocessing.
    split: of the data set.
    path: of the section of the data set in the config, for errors.
    study: what is computed in place of the likelihood's metrics, or None.
    own: the run's own evaluation, whose data a study may refer to.
  """

  name: str
  scorer: Scorer
  dataset: Dataset
  loader: Loader
  spec: DataSpec
  split: str
  path: str
  study: Study | None = None
  own: 'Evaluation | None' = None

  @property
  def num_batches(self) -> int:
    size = len(self.loader.source(self.dataset, self.split))
    return math.ceil(size / self.scorer.batch_size)

  def __call__(
      self,
      variables: Variables,
      key: jax.Array,
      partial: EvalCheckpoint,
      skipped: MutableMapping[int, str],
  ) -> Results:
    """Scores all batches that `partial` does not have yet.

    Args:
      variables: of the network.
      key: that indices are drawn from.
      partial: what was summed before.
      skipped: gets the examples that cannot be read, see `Loader`.
    """
    progress = self._progress()
    if self.study is None:
      batches = self._batches(skipped, partial.num_batches)
      return self.scorer(
          variables, batches, key, partial=partial, report=progress
      )

    def report(done: int) -> None:
      progress(done)
      partial.raise_if_stopped()

    found = self.collect(variables, key, skipped, report)
    references = {}
    if self.study.needs_reference and self.own:
      references = self.own.collect(variables, key, {}, report)
    with build.located(f'study {self.name}'):
      metrics = {
          name: self.study.metrics(predictions, references.get(name))
          for name, predictions in found.items()
      }
    draw = functools.partial(
        self.study.draw, found=found, references=references
    )
    return Results(metrics, draw=draw)

  def collect(
      self,
      variables: Variables,
      key: jax.Array,
      skipped: MutableMapping[int, str],
      report: Callable[[int], Any],
  ) -> dict[str, Predictions]:
    """The predictions for all examples, by model; see `Scorer.collect`."""
    batches = self._batches(skipped)
    if self.study and not self.study.needs_labels:
      target = self.scorer.model.likelihood.target
      batches = (
          b.replace(y=np.zeros((len(b.mask), *target.shape), target.dtype))
          for b in batches
      )
    return self.scorer.collect(variables, batches, key, report=report)

  def _progress(self) -> Callable[[int], Any]:
    return clu_imports.periodic_actions().ReportProgress(
        num_train_steps=self.num_batches, every_secs=10
    )

  def _batches(
      self, skipped: MutableMapping[int, str], start: int = 0
  ) -> Iterator[Batch]:
    """This process's rows of the batches after the first `start`."""
    batches = self.loader.eval_batches(
        self.dataset,
        self.split,
        self.spec,
        batch_size=self.scorer.batch_size,
        start=start,
        skipped=skipped,
    )
    return located_batches(self.path, batches)

  def training_points(self) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of some training examples, evenly spread."""
    reader = self.loader.reader(self.dataset, 'train', self.spec.preprocess)
    return reader.some(_POINTS)


def create_evaluations(
    config: ml_collections.ConfigDict,
    model: Model,
    dataset: Dataset,
    mesh: Mesh,
    rules: sharding.Rules,
    own: Mapping[str, Any] = MappingProxyType({}),
) -> Sequence[Evaluation]:
  """Builds the evaluation of `config.eval`, and those of `config.evals`.

  Args:
    config: the whole config.
    model: that is scored.
    dataset: from `config.dataset`.
    mesh: of devices.
    rules: what lies on which axis of it.
    own: what the run's own evaluation has in place of its split: `split`,
      `dataset`.
  """

  def create(name: str, entry: dict[str, Any], path: str) -> Evaluation:
    fields = {**config.eval, **entry}
    section, data, spec = fields.get('dataset'), dataset, model.spec
    study = _study(fields.get('study'), model, f'{path}.study')
    needs_labels = study is None or study.needs_labels
    if section:
      data = create_dataset(section, f'{path}.dataset')
      with build.located(f'{path}.dataset'):
        model.check_spec(data.spec, labels=needs_labels)
        preprocess = preprocess_of(data, dataset, spec.preprocess)
      spec = dataclasses.replace(spec, preprocess=preprocess)
      if not needs_labels:
        spec = dataclasses.replace(spec, likelihood=data.likelihood)
    with build.located(f'{path}.temperature'):
      likelihood = model.likelihood.tempered(fields['temperature'])
    where = sharding.batch_sharding(mesh, rules)
    data_path = f'{path}.dataset' if section else 'config.dataset'
    with build.located(data_path):
      check_base(model.preprocess, data)
      loader = create_loader(section or config.dataset, where)
    scorer = Scorer(
        model=dataclasses.replace(model, likelihood=likelihood),
        batch_size=config.batch_size,
        mesh=mesh,
        rules=rules,
        num_indices=num_eval_indices(config, model, fields['num_indices']),
        tau=fields['tau'],
        chunk=fields['chunk'],
        base_temperature=fields['base_temperature'],
    )
    split = fields.get('split', 'test')
    return Evaluation(
        name, scorer, data, loader, spec, split, data_path, study
    )

  # Tuning is evaluated on a part of the training split, never on the test
  # split.
  split = 'validation' if config.dataset.get('holdout') else 'test'
  entry = {'split': split, **own}
  first = create(entry['split'], entry, 'config.eval')
  others = (
      create(name, dict(entry), f'config.evals.{name}')
      for name, entry in config.evals.items()
  )
  return [first, *(dataclasses.replace(e, own=first) for e in others)]


def preprocess_of(
    data: Dataset, training: Dataset, learned: Preprocess
) -> Preprocess:
  """The preprocessing of data that are evaluated.

  Args:
    data: that are evaluated.
    training: what was trained on. Data of the same kind are preprocessed as
      these were.
    learned: how they were, with what was learned from them.
  """
  return learned if type(data) is type(training) else data.preprocess


def _study(section: Any, model: Model, path: str) -> Study | None:
  """The study that an evaluation names, if any."""
  if not section:
    return None
  if model.likelihood.num_classes is None:
    raise ValueError(
        f'{path} is {dict(section)}, but studies are of classifiers and the'
        f' likelihood is {model.likelihood}'
    )
  return build.build(section, STUDY, path)
