"""Evaluation: which data a model is scored on, and how."""

from collections.abc import MutableMapping, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from flax_enn import build, sharding
from flax_enn.core import Variables
from flax_enn.data import Dataset, DataSpec, Loader
from flax_enn.evaluation.partial import EvalCheckpoint
from flax_enn.evaluation.results import Results
from flax_enn.evaluation.scorer import Scorer
from flax_enn.model import (
    Model,
    create_dataset,
    create_loader,
    located_batches,
    num_eval_indices,
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
  """

  name: str
  scorer: Scorer
  dataset: Dataset
  loader: Loader
  spec: DataSpec
  split: str
  path: str

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
    from clu import periodic_actions  # which imports TensorFlow

    progress = periodic_actions.ReportProgress(
        num_train_steps=self.num_batches, every_secs=10
    )
    batches = self.loader.eval_batches(
        self.dataset,
        self.split,
        self.spec,
        batch_size=self.scorer.batch_size,
        start=partial.num_batches,
        skipped=skipped,
    )
    return self.scorer(
        variables,
        located_batches(self.path, batches),
        key,
        partial=partial,
        report=progress,
    )

  def training_points(self) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of some training examples, evenly spread."""
    reader = self.loader.reader(self.dataset, 'train', self.spec.preprocess)
    rows = np.unique(np.linspace(0, len(reader) - 1, _POINTS).astype(int))
    read = (reader[int(i)] for i in rows)
    elements = [e for e in read if 'problem' not in e]
    x = np.stack([e['x'] for e in elements])
    return x, np.stack([e['y'] for e in elements])


def create_evaluations(
    config: ml_collections.ConfigDict,
    model: Model,
    dataset: Dataset,
    mesh: Mesh,
    rules: sharding.Rules,
) -> Sequence[Evaluation]:
  """Builds the evaluation of `config.eval`, and those of `config.evals`.

  Args:
    config: the whole config.
    model: that is scored.
    dataset: from `config.dataset`.
    mesh: of devices.
    rules: what lies on which axis of it.
  """

  def create(name: str, entry: dict[str, Any], path: str) -> Evaluation:
    fields = {**config.eval, **entry}
    section, data, spec = fields.get('dataset'), dataset, model.spec
    if section:
      data = create_dataset(section, f'{path}.dataset')
      with build.located(f'{path}.dataset'):
        model.check_spec(data.spec)
      # Data of the same kind as in training are preprocessed as in training,
      # with what was learned there.
      if section['name'] != config.dataset.name:
        with build.located(f'{path}.dataset'):
          spec = dataclasses.replace(spec, preprocess=data.preprocess)
    with build.located(f'{path}.temperature'):
      likelihood = model.likelihood.tempered(fields['temperature'])
    where = sharding.batch_sharding(mesh, rules)
    data_path = f'{path}.dataset' if section else 'config.dataset'
    with build.located(data_path):
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
    return Evaluation(name, scorer, data, loader, spec, split, data_path)

  # Tuning is evaluated on a part of the training split, never on the test
  # split.
  split = 'validation' if config.dataset.get('holdout') else 'test'
  return [
      create(split, {'split': split}, 'config.eval'),
      *(
          create(name, dict(entry), f'config.evals.{name}')
          for name, entry in config.evals.items()
      ),
  ]
