"""Features of a base on disk, in shards that are checked when they are read.

  manifest.json                 what was computed from what, and the shards
  train-00000.safetensors, …    of so many examples each, in their order:
                                `x/NAME` for each entry of x, `y`, `weight`

The manifest is a JSON object:

  format          1
  base            what was run: a description, and the SHA-256 of its variables
  preprocess      of its inputs
  dataset         whose examples they are
  id              SHA-256 of base and preprocess: features of the same id fit
                  the same networks
  input_spec      of one x: name -> shape and dtype
  likelihood, class_names
  shard_size      examples in a shard; fewer in the last one of a split
  splits          name -> number of examples, and SHA-256 of what they were
  shards          name of each file that is complete -> its SHA-256
  sha256          of all of this

A shard has its name once it is whole, and its hash in the manifest after that:
what is in neither is computed again.
"""

from collections.abc import Mapping
import hashlib
import json
import mmap
from typing import Any

from etils import epath
import jax
import numpy as np
from safetensors import numpy as safetensors

from flax_enn import likelihoods, run_folder, storage

MANIFEST, FORMAT = 'manifest.json', 1
_DTYPES = {
    'F16': np.float16, 'F32': np.float32, 'F64': np.float64, 'I32': np.int32,
    'I64': np.int64, 'U8': np.uint8,
}  # fmt: skip

Manifest = dict[str, Any]


def digest(content: Any) -> str:
  """SHA-256 in hexadecimal digits, of bytes or of JSON."""
  if not isinstance(content, (bytes, mmap.mmap)):
    content = json.dumps(content, sort_keys=True).encode()
  return hashlib.sha256(content).hexdigest()


def read_manifest(folder: epath.Path) -> Manifest:
  """The manifest of a folder.

  Raises:
    ValueError: there is none, it is damaged or of another format.
  """
  path = folder / MANIFEST
  if not path.exists():
    raise ValueError(
        f'{path} does not exist: {folder} is no folder of features, which'
        ' python -m flax_enn.features writes'
    )
  found = run_folder.read_json(path)
  if found.get('format') != FORMAT:
    raise ValueError(
        f'{path}: format is {found.get("format")!r}, but this version of'
        f' flax_enn reads {FORMAT}'
    )
  if found.pop('sha256', None) != digest(found):
    raise ValueError(
        f'{path} is damaged: it is not what was written, by its SHA-256;'
        ' remove it, and the command that wrote the folder makes it again'
    )
  return found


def write_manifest(folder: epath.Path, manifest: Manifest) -> None:
  """Writes it atomically."""
  path = folder / MANIFEST
  run_folder.write_json(path, {**manifest, 'sha256': digest(manifest)})


def names_of(manifest: Manifest, split: str) -> list[str]:
  """The files of the shards of a split, in order."""
  examples = manifest['splits'][split]['examples']
  count = -(-examples // manifest['shard_size'])
  return [f'{split}-{i:05}.safetensors' for i in range(count)]


def write_shard(
    path: epath.Path, x: Mapping[str, Any], y: Any, weight: Any = None
) -> str:
  """Writes a shard atomically, and returns its SHA-256."""
  arrays = {f'x/{name}': value for name, value in x.items()} | {'y': y}
  if weight is not None:
    arrays['weight'] = weight
  content = safetensors.save(
      {name: np.asarray(value, order='C') for name, value in arrays.items()}
  )
  run_folder.atomic_write(path, content)
  return digest(content)


def read_shard(path: epath.Path, sha256: str) -> dict[str, np.ndarray]:
  """The arrays of a shard, checked; of a local file, they are mapped.

  Raises:
    ValueError: it is missing or damaged.
  """
  again = 'the command that wrote the folder computes it again'
  if not path.exists():
    raise ValueError(f'{path} does not exist; {again}')
  content = _content(path)
  if (found := digest(content)) != sha256:
    raise ValueError(
        f'{path} is damaged: its SHA-256 is {found}, and the manifest says'
        f' {sha256}; {again}'
    )
  start = 8 + int.from_bytes(content[:8], 'little')
  header = json.loads(content[8:start])
  header.pop('__metadata__', None)
  return {
      name: np.frombuffer(
          content,
          _DTYPES[info['dtype']],
          offset=start + info['data_offsets'][0],
          count=int(np.prod(info['shape'])),
      ).reshape(info['shape'])
      for name, info in header.items()
  }


def _content(path: epath.Path) -> Any:
  if storage.in_bucket(path):  # a bucket has no pages
    return path.read_bytes()
  with open(path, 'rb') as file:
    if not file.seek(0, 2):
      return b''
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def describe_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes and dtypes by name, as JSON types."""
  return {
      name: {'shape': list(leaf.shape), 'dtype': np.dtype(leaf.dtype).name}
      for name, leaf in spec.items()
  }


def parse_spec(found: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  """The inverse."""
  return {
      name: jax.ShapeDtypeStruct(tuple(leaf['shape']), np.dtype(leaf['dtype']))
      for name, leaf in found.items()
  }


def describe_likelihood(likelihood: likelihoods.Likelihood) -> dict[str, Any]:
  """Its class and fields, as JSON types.

  Raises:
    ValueError: it is not one of flax_enn, which alone can be read back.
  """
  name = type(likelihood).__name__
  if getattr(likelihoods, name, None) is not type(likelihood):
    raise ValueError(
        f'the likelihood is {likelihood}, which is not one of'
        f' {likelihoods.__all__}; set it in the config of what trains on the'
        ' features, and leave it out here'
    )
  return {'class': name, **vars(likelihood.tempered(1.0))}


def parse_likelihood(found: Mapping[str, Any]) -> likelihoods.Likelihood:
  """The inverse.

  Raises:
    ValueError: there is none of that name, or it has no such fields.
  """
  fields = {
      k: tuple(v) if isinstance(v, list) else v for k, v in found.items()
  }
  name = fields.pop('class', None)
  if name not in likelihoods.__all__:
    raise ValueError(f'{MANIFEST}: the likelihood is {name!r}, not one of'
                     f' {likelihoods.__all__}')
  try:
    return getattr(likelihoods, name)(**fields)
  except TypeError as e:
    raise ValueError(f'{MANIFEST}: the likelihood: {e}') from e
