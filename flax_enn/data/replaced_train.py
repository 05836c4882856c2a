"""A data set that is trained on the examples of another."""

import dataclasses

from flax_enn.data.base import Dataset, Source, Wrapped


@dataclasses.dataclass(frozen=True)
class ReplacedTrain(Wrapped):
  """The test split and the form of `dataset`, the training split of `train`.

  enn's `OverrideTrainDataset`. Examples of one's own are an `arrays` data set:

    {'name': 'replaced_train', 'dataset': {'name': 'mnist'},
     'train': {'name': 'arrays', 'path': 'mine.npz', 'num_classes': 10}}

  Attributes:
    dataset: what is evaluated; its preprocessing is that of both.
    train: what is trained on: its x and y are stored in the same form.
  """

  train: Dataset

  def load(self, split: str) -> Source:
    if split != 'train':
      return self.dataset.load(split)
    found, expected = (
        d.likelihood.target for d in (self.train, self.dataset)
    )
    classes = [d.likelihood.num_classes for d in (self.train, self.dataset)]
    if found != expected or classes[0] != classes[1]:
      raise ValueError(
          f'train has {self.train.likelihood} and dataset'
          f' {self.dataset.likelihood}; y must mean the same in both'
      )
    return self.train.load('train')
