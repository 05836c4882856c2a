"""From a run to a bundle."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import jax

from flax_enn import run_folder, sharding
from flax_enn.checkpoints import layout
from flax_enn.inference import bundle, card, stablehlo, stored


def export_bundle(
    run_or_bundle: epath.PathLike,
    out: epath.PathLike,
    step: int | str = 'best',
    *,
    num_indices: int | None = None,
    seed: int | None = None,
    allow_imports: bool = False,
    platforms: Sequence[str] = stablehlo.PLATFORMS,
) -> dict[str, Any]:
  """Writes a bundle (see `bundle`) atomically.

  That of a bundle has its StableHLO made anew.

  Args:
    run_or_bundle: folder that it is made from, which is not needed afterwards.
    out: folder that it becomes: a new one, or an empty one.
    step: as in `Predictor.load`, and so are num_indices, seed, allow_imports.
    num_indices: N.
    seed: of the indices.
    allow_imports: whether a config may name classes outside of flax_enn.
    platforms: that the StableHLO is for, some of cpu, cuda, tpu and rocm.

  Returns:
    What its `card.json` says.

  Raises:
    ValueError: `out` is not empty, there is no such platform, or the network
      cannot be exported; and as `Predictor.load`.
    DamagedCheckpointError, StorageError: as `Predictor.load`.
  """
  folder = epath.Path(run_or_bundle).expanduser()
  out = layout.absolute(epath.Path(out).expanduser())
  run_folder.check_new(out)
  stablehlo.check_platforms(platforms)
  # One device: what is exported knows no mesh.
  mesh = sharding.create_mesh({}, jax.local_devices()[:1])
  found = stored.load(folder, step, mesh, num_indices, seed, allow_imports)
  indices, key_impl = bundle.index_arrays(found.indices, found.log_weights)
  exported = stablehlo.export_functions(
      found.model, found.variables, indices, key_impl, platforms
  )
  described = run_folder.read_json(folder / 'model.json')
  del described['likelihood']
  files = {
      **{
          name: (folder / name).read_bytes()
          for name in ('config.json', 'model.json')
      },
      'preprocessor.json': run_folder.to_json(described),
      bundle.VARIABLES: bundle.to_bytes(bundle.to_arrays(found.variables)),
      bundle.INDICES: bundle.to_bytes(indices, key_impl),
      **{f'{k}.stablehlo': bytes(e.serialize()) for k, e in exported.items()},
  }
  content = card.create(folder, found, seed, exported, files)
  files['README.md'] = card.readme(out.name, content, found.model).encode()
  files[bundle.CARD] = run_folder.to_json(content)
  with run_folder.written_whole(out) as part:
    for name, data in files.items():
      run_folder.atomic_write(part / name, data)
  return content
