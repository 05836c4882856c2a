"""Reads some of the arrays of a checkpoint, and none of the others."""

from collections.abc import Mapping
from typing import Any

from etils import epath
from flax import traverse_util
import jax
import orbax.checkpoint as ocp

from flax_enn.checkpoints import errors, fingerprint, layout


def read_arrays(
    path: epath.Path, wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
  """Reads arrays of a checkpoint, whatever mesh they were saved from.

  Args:
    path: of the checkpoint.
    wanted: path of each array in it -> its shape, dtype and sharding.

  Raises:
    DamagedCheckpointError: what was read is not what was saved.
    StorageError: it cannot be read now.
  """
  tree = traverse_util.unflatten_dict(dict(wanted), sep='/')

  def read() -> Any:
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
      return reader.restore(
          path / 'state',
          args=ocp.args.PyTreeRestore(
              tree,
              restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
              partial_restore=True,
          ),
      )

  arrays = layout.flatten_with_names(errors.read(path, read))
  saved = errors.read(path, lambda: layout.fingerprints(path))
  fingerprint.check(path, arrays, saved)
  return arrays


def read_variables(path: epath.Path, abstract: Mapping[str, Any]) -> Any:
  """Reads the variables of a network, and nothing of the optimizer.

  Args:
    path: of the checkpoint.
    abstract: the variables as `jax.ShapeDtypeStruct`s with shardings.

  Raises:
    MisfitError: the checkpoint is of another network.
    DamagedCheckpointError, StorageError: as `read_arrays`.
  """

  def stored(key: Any, _: Any) -> str:
    name = layout.path_name(key)
    return name if name.startswith('params/') else f'collections/{name}'

  names = jax.tree_util.tree_map_with_path(stored, abstract)
  wanted = dict(zip(jax.tree.leaves(names), jax.tree.leaves(abstract)))
  saved = errors.read(path, lambda: layout.tree_metadata(path))
  ours = ('params/', 'collections/')
  if wrong := layout.differences(
      {k: v for k, v in saved.items() if k.startswith(ours)},
      {k: layout.to_stored_spec(v) for k, v in wanted.items()},
  ):
    raise errors.MisfitError(
        f'{path} does not fit the network of its config.json:'
        f'{layout.format_list(wrong)}\nwas it written by another version?'
    )
  arrays = read_arrays(path, wanted)
  return jax.tree.map(arrays.__getitem__, names)
