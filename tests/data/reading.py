"""Data sets read as a run reads them: by a loader, as their spec says."""

import numpy as np

from flax_enn.data import Loader


def everything(dataset, split, **loader):
  """`x`, preprocessed, `y` and `id` of all examples of a split."""
  source = Loader(**loader).source(dataset, split)
  elements = [source[i] for i in range(len(source))]
  x = np.stack([dataset.preprocess(e['x']) for e in elements])
  return x, *(np.stack([e[key] for e in elements]) for key in ('y', 'id'))


def train_batches(
    dataset, batch_size, seed=0, start=0, skipped=None, **loader
):
  return Loader(**loader).train_batches(
      dataset,
      dataset.spec,
      batch_size=batch_size,
      seed=seed,
      start=start,
      skipped=skipped,
  )


def eval_batches(
    dataset, split, batch_size, start=0, skipped=None, **loader
):
  return Loader(**loader).eval_batches(
      dataset,
      split,
      dataset.spec,
      batch_size=batch_size,
      start=start,
      skipped=skipped,
  )


def sizes(dataset, **loader):
  """Of the splits train, validation and test."""
  loader = Loader(**loader)
  splits = ('train', 'validation', 'test')
  return [len(loader.source(dataset, split)) for split in splits]
