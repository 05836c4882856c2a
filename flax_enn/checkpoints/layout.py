"""What lies in the checkpoints of a run, read without changing anything.

A run keeps its checkpoints in `WORKDIR/checkpoints/STEP/`, each with two items:
`state`, the arrays, and `meta`, a JSON object with the key

  fingerprints  path of every array of the state -> its number

(older ones have `fingerprint`, those of the collection `frozen`).

A checkpoint is saved before it is evaluated. The results are beside them, in
`scores.json`: step -> {"score": the metric by which the best is chosen,
"metrics": all of them by name}.
"""

from collections.abc import Mapping, Sequence
import importlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

from flax_enn import storage
from flax_enn.checkpoints.errors import MisfitError

Leaves = dict[str, jax.ShapeDtypeStruct]


def absolute(path: epath.PathLike, base: epath.PathLike = '.') -> epath.Path:
  """The path without `..`, from `base` on; gs:// stays gs://.

  Links are left alone: a sibling of `runs/x` is in `runs`, wherever x may be.
  """
  path = epath.Path(path)
  if not path.is_absolute():
    path = epath.Path(base) / path
  # `Path.resolve` takes the gs:// of epath for the name of a local folder;
  # the parts spell it /gs/, which epath reads as gs:// again.
  return epath.Path(os.path.abspath(os.path.join('.', *path.parts)))


def checkpoint_dir(workdir: epath.PathLike) -> epath.Path:
  """Where a run keeps its checkpoints."""
  return absolute(workdir) / 'checkpoints'


def steps(workdir: epath.PathLike) -> list[int]:
  """The steps that were saved to the end, in order."""
  where = checkpoint_dir(workdir)
  if not where.exists():
    return []
  return sorted(ocp.utils.checkpoint_steps(where))


def check_installed(directory: epath.Path) -> None:
  """Imports what Orbax lists and deletes the checkpoints of a bucket with.

  Raises:
    ModuleNotFoundError: it is not installed.
  """
  if not str(directory).startswith('gs://'):
    return
  try:
    importlib.import_module('google.cloud.storage')
  except ImportError as e:
    raise ModuleNotFoundError(
        f'the checkpoints in {directory} need google-cloud-storage, which is'
        " not installed: pip install 'flax_enn[gcs]'"
    ) from e


def check_commit_markers(workdir: epath.PathLike) -> None:
  """Checks that Orbax takes no finished checkpoint for an unfinished one.

  Where folders cannot be renamed at once, as in a bucket, a finished checkpoint
  has a file `commit_success.txt`, and Orbax deletes those without. A step with
  a score was finished, whatever it lacks.

  Raises:
    ValueError: such a step has no marker; nothing was changed.
  """
  where = checkpoint_dir(workdir)
  if not where.exists():
    return
  folders = {int(p.name) for p in where.iterdir() if p.name.isdecimal()}
  if lost := sorted((folders & scores(workdir).keys()) - {*steps(workdir)}):
    raise ValueError(
        f'the checkpoints {lost} in {where} were finished and have no commit'
        ' marker: an older version wrote them, or they were copied without it,'
        ' and Orbax would delete them. Put an empty file commit_success.txt'
        ' into each that is whole, or move it away'
    )


def scores(workdir: epath.PathLike) -> dict[int, Mapping[str, Any]]:
  """What is in `scores.json` by step; without it, or when it is damaged, {}."""
  path = checkpoint_dir(workdir) / 'scores.json'
  if not path.exists():
    return {}
  try:
    found = json.loads(storage.read_bytes(path), parse_constant=_no_constant)
    return {
        int(step): {'score': _score(v['score']), 'metrics': dict(v['metrics'])}
        for step, v in found.items()
    }
  except (
      ValueError, TypeError, KeyError, AttributeError, RecursionError,
  ) as e:  # fmt: skip
    logging.warning(
        '%s is damaged (%s): which checkpoint is best is not known', path, e
    )
    return {}


def _no_constant(name: str) -> None:
  raise ValueError(f'{name} is not JSON')


def _score(value: Any) -> float | None:
  return None if value is None else float(value)


def best(
    scores: Mapping[int, Mapping[str, Any]], steps: Sequence[int]
) -> int | None:
  """The step of the lowest score among `steps`, of those that have one."""
  ranked = {
      step: scores[step]['score']
      for step in steps
      if step in scores and scores[step]['score'] is not None
  }
  return min(ranked, key=ranked.__getitem__, default=None)


def fingerprints(path: epath.Path) -> Mapping[str, int]:
  """Path of an array -> the number it was saved with, of a checkpoint."""
  meta = json.loads((path / 'meta' / 'metadata').read_text())
  if 'fingerprints' in meta:
    return dict(meta['fingerprints'])
  # An older version has those of the frozen variables alone.
  return {f'collections/frozen/{k}': n for k, n in meta['fingerprint'].items()}


def tree_metadata(path: epath.Path) -> Leaves:
  """Path -> shape and dtype of all arrays of the checkpoint `path`."""
  saved = ocp.PyTreeCheckpointHandler().metadata(path / 'state')
  return {
      name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
      for name, leaf in flatten_with_names(saved.tree).items()
      if hasattr(leaf, 'dtype')  # an empty subtree is listed as a leaf
  }


def to_stored_spec(leaf: Any) -> jax.ShapeDtypeStruct:
  """The shape and dtype under which an array or key is stored."""
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    leaf = jax.eval_shape(jax.random.key_data, leaf)
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def flatten_with_names(tree: Any) -> dict[str, Any]:
  """The leaves of a tree by path: `params/base/kernel`."""
  flat, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_name(path): leaf for path, leaf in flat}


def path_name(path: Any) -> str:
  """A path of jax as text: `params/base/kernel`."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def differences(
    saved: Mapping[str, jax.ShapeDtypeStruct],
    expected: Mapping[str, jax.ShapeDtypeStruct],
) -> list[str]:
  """Says in words where the saved arrays are not the expected ones."""

  def describe(leaf):
    if leaf is None:
      return 'nothing'
    return f'{leaf.dtype}{list(leaf.shape)}'

  return [
      f'{path}: found {describe(saved.get(path))}, expected'
      f' {describe(expected.get(path))}'
      for path in sorted({*saved, *expected})
      if describe(saved.get(path)) != describe(expected.get(path))
  ]


def check_fit(path: epath.Path, saved: Leaves, abstract: Any) -> None:
  """Raises a MisfitError where the saved arrays are not those of a state."""
  expected = flatten_with_names(jax.tree.map(to_stored_spec, abstract))
  if wrong := differences(saved, expected):
    raise MisfitError(
        f'{path} does not fit this network and optimizer:{format_list(wrong)}'
        '\nuse the config it was trained with, or another --workdir'
    )


def format_list(lines: list[str], limit: int = 8) -> str:
  """The first few of many lines, one below the other."""
  rest = len(lines) - limit
  more = [f'and {rest} more'] if rest > 0 else []
  return ''.join(f'\n  {line}' for line in [*lines[:limit], *more])
