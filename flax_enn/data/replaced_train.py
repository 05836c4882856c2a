"""A data set that is trained on the examples of another."""

import dataclasses

import jax

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
    source = self.train.load('train')
    self._check_x(source)
    return source

  def _check_x(self, source: Source) -> None:
    """Raises a ValueError where the first x is preprocessed to another form."""
    try:
      x = self.preprocess(source[0]['x'])
    except Exception:  # decoders each have their own
      return  # An example that cannot be read is the loader's to name.
    found, expected = (
        jax.tree.map(lambda a: f'{a.dtype}{list(a.shape)}', one)
        for one in (x, self.input_spec)
    )
    if found != expected:
      raise ValueError(
          f'train has x of the form {found} once dataset has preprocessed it,'
          f' and dataset {expected}; x must be stored in the same form in both'
      )
