"""Writes the features of a data set, and goes on where it was stopped."""

from collections.abc import Mapping, Sequence
import hashlib
import json
from typing import Any

from absl import logging
from etils import epath
import jax
import ml_collections
import numpy as np

from flax_enn import build, run_folder, sharding
from flax_enn.data import ArraySource, feature_shards
from flax_enn.data.base import Dataset
from flax_enn.data_section import (
    LOADER_FIELDS,
    create_dataset,
    create_loader,
)
from flax_enn.feature_cache.base import Base
from flax_enn.likelihoods import Likelihood

# Where files lie, and how they are read; neither says what they are.
_NOT_IDENTITY = (*LOADER_FIELDS, 'data_dir', 'path')
# Examples in a shard, rounded up to whole batches.
SHARD_SIZE = 4096


def extract(
    base: Base,
    config: ml_collections.ConfigDict,
    out: epath.PathLike,
    splits: Sequence[str] = ('train', 'test'),
    shard_size: int = SHARD_SIZE,
) -> feature_shards.Manifest:
  """Writes the features of a data set; goes on where it was stopped.

  Args:
    base: that computes them.
    config: with `dataset` and `batch_size`.
    out: folder; a new one, or one that this has begun.
    splits: of the data set: all of each, whatever its `holdout` is; inputs are
      not augmented.
    shard_size: examples in a shard, rounded up to whole batches.

  Raises:
    ValueError: the folder has features of something else.
  """
  if jax.process_count() > 1:
    raise ValueError('features are computed by one process; start one alone')
  folder = epath.Path(out).expanduser()
  section = {**config.dataset.to_dict(), 'holdout': 0.0, 'skip_bad': 0}
  with build.located('config.dataset'):
    dataset = create_dataset(section)
    sources = {split: dataset.load(split) for split in splits}
  size = config.batch_size
  manifest = {
      'format': feature_shards.FORMAT,
      **base.identity,
      'id': base.id,
      'dataset': _plain(
          {k: v for k, v in section.items() if k not in _NOT_IDENTITY}
      ),
      'input_spec': feature_shards.describe_spec(_spec(base)),
      'likelihood': feature_shards.describe_likelihood(base.model.likelihood),
      'class_names': list(base.model.class_names),
      'shard_size': -(-shard_size // size) * size,
      'splits': {
          split: {'examples': len(source), 'sha256': _digest(source)}
          for split, source in sources.items()
      },
      'shards': {},
  }
  if (folder / feature_shards.MANIFEST).exists():
    found = feature_shards.read_manifest(folder)
    _check_same(manifest, found, folder)
    manifest['splits'] = found['splits'] | manifest['splits']
    manifest['shards'] = found['shards']
  feature_shards.write_manifest(folder, manifest)
  for split in splits:
    _extract_split(base, dataset, section, size, split, folder, manifest)
  return manifest


def _extract_split(
    base: Base,
    dataset: Dataset,
    section: Mapping[str, Any],
    batch_size: int,
    split: str,
    folder: epath.Path,
    manifest: feature_shards.Manifest,
) -> None:
  """Computes the shards that are not there yet, or are damaged."""
  mesh = sharding.create_mesh({'data': -1})
  where = sharding.batch_sharding(mesh)
  with build.located('config.dataset'):
    loader = create_loader(section, where)
  for i, name in enumerate(feature_shards.names_of(manifest, split)):
    if _is_whole(folder / name, manifest['shards'].get(name)):
      continue
    per_shard = manifest['shard_size'] // batch_size
    batches = loader.eval_batches(
        dataset,
        split,
        base.model.spec,
        batch_size=batch_size,
        start=i * per_shard,
    )
    parts = []
    with sharding.use_mesh(mesh):
      for _, batch in zip(range(per_shard), batches):
        real = batch.mask > 0
        placed = sharding.make_global_batch(batch, where)
        x = jax.device_get(base.apply(base.variables, placed.x))
        part = {'x': x, 'y': batch.y, 'weight': batch.weight}
        parts.append(jax.tree.map(lambda a, real=real: a[real], part))
    shard = jax.tree.map(lambda *a: np.concatenate(a), *parts)
    manifest['shards'][name] = feature_shards.write_shard(
        folder / name, **shard
    )
    feature_shards.write_manifest(folder, manifest)
    logging.info('%s: %d examples', folder / name, len(shard['y']))


def _is_whole(path: epath.Path, sha256: str | None) -> bool:
  if sha256 is None:
    return False
  try:
    feature_shards.read_shard(path, sha256)
  except ValueError as e:
    logging.warning('%s', e)
    return False
  return True


def _check_same(
    wanted: feature_shards.Manifest,
    found: feature_shards.Manifest,
    folder: epath.Path,
) -> None:
  """Raises a ValueError where a folder has features of something else."""
  pairs = {k: (found.get(k), wanted[k]) for k in wanted.keys() - {'splits'}}
  for split, examples in wanted['splits'].items():
    there = found['splits'].get(split, examples)
    pairs[f'splits.{split}'] = (there, examples)
  wrong = [k for k, (a, b) in sorted(pairs.items()) if k != 'shards' and a != b]
  if wrong:
    first = wrong[0]
    raise ValueError(
        f'{folder} has features of something else: {", ".join(wrong)} differ'
        f' ({first} is {pairs[first][0]} there and {pairs[first][1]} here);'
        ' choose another --out, or remove it'
    )


def _spec(base: Base) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and dtypes of the features of one example."""
  x = base.model.dummy_input()
  found = jax.eval_shape(base.apply, base.variables, x)
  return jax.tree.map(
      lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), found
  )


def _digest(source: Any) -> str | None:
  """SHA-256 of examples in arrays; None of those in files, too many to read."""
  if not isinstance(source, ArraySource):
    return None
  hashes = hashlib.sha256()
  for leaf in jax.tree.leaves((source.x, source.y)):
    hashes.update(np.ascontiguousarray(leaf).data)
  return hashes.hexdigest()


def _plain(section: Mapping[str, Any]) -> dict[str, Any]:
  """As JSON has it: tuples are lists there."""
  return json.loads(json.dumps(section))


def store(
    out: epath.PathLike,
    splits: Mapping[str, tuple[Mapping[str, np.ndarray], np.ndarray]],
    origin: Mapping[str, Any],
    likelihood: Likelihood,
    class_names: Sequence[str] = (),
    shard_size: int = SHARD_SIZE,
) -> feature_shards.Manifest:
  """Writes features that something else has computed, as `extract` does.

  Args:
    out: a new folder.
    splits: name -> x, `{'logits': [B, C], name: [B, ...]}`, and y `[B, ...]`.
    origin: what they were computed with, as JSON types: their `id` is of it.
    likelihood: what y is.
    class_names: of each class, or nothing.
    shard_size: examples in a shard.
  """
  folder = epath.Path(out).expanduser()
  floats = {
      split: {k: np.asarray(v, np.float32) for k, v in x.items()}
      for split, (x, _) in splits.items()
  }
  one = next(iter(floats.values()))
  if 'logits' not in one:
    raise ValueError(f"x has {sorted(one)}; it needs the base's 'logits'")
  with run_folder.written_whole(folder) as part:
    manifest: feature_shards.Manifest = {
        'format': feature_shards.FORMAT,
        **origin,
        'id': feature_shards.digest(dict(origin)),
        'input_spec': feature_shards.describe_spec(
            {k: jax.ShapeDtypeStruct(v.shape[1:], v.dtype)
             for k, v in one.items()}
        ),
        'likelihood': feature_shards.describe_likelihood(likelihood),
        'class_names': list(class_names),
        'shard_size': shard_size,
        'splits': {
            split: {'examples': len(y), 'sha256': None}
            for split, (_, y) in splits.items()
        },
        'shards': {},
    }
    for split, (_, y) in splits.items():
      for i, name in enumerate(feature_shards.names_of(manifest, split)):
        rows = slice(i * shard_size, (i + 1) * shard_size)
        manifest['shards'][name] = feature_shards.write_shard(
            part / name, {k: v[rows] for k, v in floats[split].items()}, y[rows]
        )
    feature_shards.write_manifest(part, manifest)
  return manifest
