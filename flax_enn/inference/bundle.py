"""Bundles: a trained model in files that other programs can read, too.

  card.json            step, data, metrics, versions; SHA-256 of the files below
  config.json          of the run
  model.json           what the data taught, as in the folder of a run
  preprocessor.json    what an input is and is made from, class names
  model.safetensors    variables of the network by path, `params/base/kernel`
  indices.safetensors  `indices` `[N, ...]` and `log_weights` `[N]`; PRNG keys
                       are their data, and the metadata `key_impl` says of what
  NAME.stablehlo       what the predictor computes; see `stablehlo`
  README.md            for people

Config and arrays are the archive: they are read by name, and rebuild the model
as a run does. What is damaged is found by its hash.
"""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

from etils import epath
import jax
import numpy as np
from safetensors import numpy as safetensors

from flax_enn import run_folder, sharding
from flax_enn.checkpoints import errors, layout
from flax_enn.core import Index, Variables

CARD, VARIABLES, INDICES = (
    'card.json', 'model.safetensors', 'indices.safetensors',
)  # fmt: skip
FORMAT = 1

Card = Mapping[str, Any]


def digest(content: bytes) -> str:
  """SHA-256 in hexadecimal digits, as `sha256sum` prints it."""
  return hashlib.sha256(content).hexdigest()


def to_arrays(variables: Variables) -> dict[str, np.ndarray]:
  """The variables of a network on the host, by path."""
  named = layout.flatten_with_names(jax.device_get(variables))
  return {k: np.asarray(v, order='C') for k, v in named.items()}


def unflatten(named: Mapping[str, Any], variables: Any) -> Any:
  """The inverse: what has these names, as a tree like `variables`."""
  return jax.tree_util.tree_map_with_path(
      lambda path, _: named[layout.path_name(path)], variables
  )


def index_arrays(
    indices: Index, log_weights: Any
) -> tuple[dict[str, np.ndarray], str | None]:
  """Indices and log-weights `[N]` by name, and the implementation of keys."""
  impl = None
  if jax.dtypes.issubdtype(indices.dtype, jax.dtypes.prng_key):
    impl = str(jax.random.key_impl(indices))
    indices = jax.random.key_data(indices)
  weights = np.zeros(len(indices)) if log_weights is None else log_weights
  return {
      'indices': np.asarray(indices, order='C'),
      'log_weights': np.asarray(weights, np.float32, order='C'),
  }, impl


def as_index(array: Any, impl: str | None) -> Index:
  """Indices from what `index_arrays` made of them."""
  return array if impl is None else jax.random.wrap_key_data(array, impl=impl)


def to_bytes(
    arrays: Mapping[str, np.ndarray], impl: str | None = None
) -> bytes:
  """Arrays by name as the content of a safetensors file."""
  metadata = None if impl is None else {'key_impl': impl}
  return safetensors.save(dict(arrays), metadata)


def is_bundle(folder: epath.Path) -> bool:
  """Whether a folder is that of a bundle, damaged or not."""
  return any((folder / name).exists() for name in (CARD, VARIABLES))


def read_card(folder: epath.Path) -> Card:
  """What `card.json` says, once config.json and model.json are as it says.

  Raises:
    ValueError: it is of another format.
    DamagedCheckpointError: it, or one of the two, is damaged.
    StorageError: they cannot be read now.
  """
  path = folder / CARD
  try:
    card = run_folder.read_json(path)
  except ValueError as e:
    raise errors.DamagedCheckpointError(str(e)) from e
  if (found := card.get('format', FORMAT)) != FORMAT:
    raise ValueError(
        f'{path}: format is {found!r}, but this version of flax_enn reads'
        f' {FORMAT}; use the version that it names'
    )
  kinds = {
      'files': dict, 'num_indices': int, 'seed': int | None, 'step': int,
  }  # fmt: skip
  for name, kind in kinds.items():
    if not isinstance(card.get(name), kind):
      raise errors.DamagedCheckpointError(
          f'{path} is damaged: {name} is {card.get(name)!r}; export the run'
          ' again'
      )
  for name in ('config.json', 'model.json'):
    _read(folder, card, name)
  return card


def choose_step(folder: epath.Path, card: Card, wanted: int | str) -> int:
  """The step of a bundle, or a ValueError where another is wanted."""
  step = card['step']
  if str(wanted) not in ('best', 'latest', str(step)):
    raise ValueError(
        f'step is {wanted!r}; {folder} is a bundle of step {step} alone'
    )
  return step


def read_variables(
    folder: epath.Path, card: Card, abstract: Mapping[str, Any]
) -> Any:
  """Reads the variables of a network.

  Args:
    folder: of the bundle.
    card: from `read_card`.
    abstract: the variables as `jax.ShapeDtypeStruct`s with shardings.

  Raises:
    MisfitError: they are of another network.
    DamagedCheckpointError, StorageError: as `read_card`.
  """
  arrays = safetensors.load(_read(folder, card, VARIABLES))
  saved = {
      k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in arrays.items()
  }
  expected = layout.flatten_with_names(abstract)
  if wrong := layout.differences(saved, expected):
    raise errors.MisfitError(
        f'{folder / VARIABLES} does not fit the network of its config.json:'
        f'{layout.format_list(wrong)}\nwas it written by another version?'
    )
  placed = {k: _put(v, expected[k].sharding) for k, v in arrays.items()}
  return unflatten(placed, abstract)


def read_indices(
    folder: epath.Path, card: Card, mesh: sharding.Mesh
) -> tuple[Index, np.ndarray]:
  """Reads `[N, ...]` indices, replicated, and their log-weights `[N]`.

  Raises:
    DamagedCheckpointError, StorageError: as `read_card`.
  """
  content = _read(folder, card, INDICES)
  arrays = safetensors.load(content)
  # The header, behind its length: `load` leaves the metadata out.
  header = json.loads(content[8 : 8 + int.from_bytes(content[:8], 'little')])
  indices = _put(arrays['indices'], sharding.replicated(mesh))
  impl = header.get('__metadata__', {}).get('key_impl')
  return as_index(indices, impl), arrays['log_weights']


def _put(array: np.ndarray, where: sharding.NamedSharding) -> jax.Array:
  """The same numpy array of every process as a global array."""
  return jax.make_array_from_callback(
      array.shape, where, lambda part: np.asarray(array[part])
  )


def _read(folder: epath.Path, card: Card, name: str) -> bytes:
  path = folder / name
  content = errors.read(path, path.read_bytes)
  if digest(content) != card['files'].get(name):
    raise errors.DamagedCheckpointError(
        f'{path} is damaged: its SHA-256 is not that of {CARD}; copy or export'
        ' the bundle again'
    )
  return content
