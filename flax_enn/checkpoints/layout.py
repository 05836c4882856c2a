"""What lies in the checkpoints of a run, read without changing anything.

A run keeps its checkpoints in `WORKDIR/checkpoints/STEP/`, each with two items:
`state`, the arrays, and `meta`, a JSON object with the key

  fingerprint  path in the collection `frozen` -> its number

A checkpoint is saved before it is evaluated. The results are beside them, in
`scores.json`: step -> {"score": the metric by which the best is
chosen, "metrics": all of them by name}.
"""

from collections.abc import Generator, Mapping, Sequence
import contextlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
import jax
import orbax.checkpoint as ocp

Leaves = dict[str, jax.ShapeDtypeStruct]


class DamagedCheckpointError(RuntimeError):
  """A checkpoint that was finished once and cannot be read now."""


@contextlib.contextmanager
def wrap_errors(path: epath.Path) -> Generator[None]:
  """Turns whatever a reader raises into a `DamagedCheckpointError`.

  Orbax has no error of its own for a damaged file: the parser of that file
  speaks (JSON, zarr, OCDBT, a missing key …), so every exception counts but
  those that say nothing of the file.
  """
  try:
    yield
  except (MemoryError, PermissionError, TimeoutError, ConnectionError):
    raise
  except Exception as error:
    reason = str(error).strip().partition('\n')[0][:200]
    raise DamagedCheckpointError(
        f'cannot read {path} ({type(error).__name__}: {reason})'
    ) from error


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


def scores(workdir: epath.PathLike) -> dict[int, Mapping[str, Any]]:
  """What is in `scores.json` by step; without it, or when it is damaged, {}."""
  path = checkpoint_dir(workdir) / 'scores.json'
  if not path.exists():
    return {}
  try:
    found = json.loads(path.read_text())
    return {
        int(step): {'score': v['score'], 'metrics': dict(v['metrics'])}
        for step, v in found.items()
    }
  except (ValueError, TypeError, KeyError, AttributeError) as e:
    logging.warning(
        '%s is damaged (%s): which checkpoint is best is not known', path, e
    )
    return {}


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


def meta(path: epath.Path) -> Mapping[str, Any]:
  """The `meta` item of the checkpoint in the folder `path`."""
  return ocp.JsonCheckpointHandler().restore(path / 'meta')


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


def format_list(lines: list[str], limit: int = 8) -> str:
  """The first few of many lines, one below the other."""
  rest = len(lines) - limit
  more = [f'and {rest} more'] if rest > 0 else []
  return ''.join(f'\n  {line}' for line in [*lines[:limit], *more])
