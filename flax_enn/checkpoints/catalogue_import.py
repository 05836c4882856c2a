"""From files of DeepMind's catalogue to the folder of a run.

It has what any run has (config.json, model.json, checkpoints/, but no state of
an optimizer), and says where it is from: import.json for programs, README.md
for people.
"""

from collections.abc import Mapping
import hashlib
from typing import Any

from absl import logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn import run_folder, sharding
from flax_enn.checkpoints import (
    catalogue_card,
    haiku,
    haiku_pickle,
    haiku_resnet,
    layout,
)
from flax_enn.checkpoints.catalogue import Entry, Temperatures
from flax_enn.checkpoints.checkpointer import Checkpointer
from flax_enn.model import Model
from flax_enn.networks.backbones.resnet import ResNet

# Of the checkpoint: how many steps DeepMind trained for is not known.
STEP = 0


def import_entry(
    entry: Entry,
    files: epath.PathLike,
    out: epath.PathLike,
    temperatures: Temperatures | None = None,
    conv_prior_scale: float | None = None,
    urls: Mapping[str, str] | None = None,
) -> dict[str, Any]:
  """Writes the folder of a run atomically.

  Args:
    entry: of the catalogue.
    files: folder with `NAME.npzs`, and that of its base where it is an epinet.
    out: folder that it becomes: a new one, or an empty one.
    temperatures: from `entry.temperatures`; enn's by default.
    conv_prior_scale: in place of enn's, for an epinet.
    urls: name of a file -> where it was downloaded from.

  Returns:
    The content of `import.json`.

  Raises:
    ValueError: a file is not there, is none of the catalogue or not that of
      this entry; or `out` is not empty.
  """
  files = epath.Path(files).expanduser()
  out = layout.absolute(epath.Path(out).expanduser())
  run_folder.check_new(out)
  temperatures = temperatures or entry.temperatures()
  if conv_prior_scale is None:
    conv_prior_scale = entry.conv_prior_scale
  elif not entry.epinet:
    raise ValueError(f'{entry.name} is a base, which has no conv prior')
  config = entry.config(temperatures, conv_prior_scale)
  model = Model.from_config(config)
  network = ResNet(entry.classes, entry.depth)
  of_base, record = _read(
      entry.base, files, haiku_resnet.specs(network), urls or {}
  )
  records = [record]
  base = jax.tree.map(
      lambda leaf: leaf[0],
      {
          'params': haiku_resnet.params(network, of_base['params']),
          'batch_stats': haiku_resnet.statistics(network, of_base['state']),
      },
  )
  if entry.epinet:
    features = of_base['params']['res_net/~/final_fc']['w'].shape[-2]
    expected = {'params': _epinet_specs(entry, features), 'state': {}}
    found, record = _read(entry, files, expected, urls or {})
    records.append(record)
    variables = _epinet(entry, found['params'], base)
    if conv_prior_scale:
      variables['frozen']['prior_conv'] = {'params': _conv_prior(entry, model)}
  else:
    variables = {k: {'base': v} for k, v in base.items()}
  card = catalogue_card.create(entry, temperatures, conv_prior_scale, records)
  with run_folder.written_whole(out) as part:
    _save(model, variables, part)
    run_folder.write_config(config, part)
    run_folder.write_json(part / 'model.json', model.describe())
    run_folder.write_json(part / run_folder.IMPORT, card)
    readme = catalogue_card.readme(card)
    run_folder.atomic_write(part / 'README.md', readme.encode())
  return card


def _read(
    entry: Entry,
    files: epath.Path,
    expected: Mapping[str, haiku_resnet.Tree],
    urls: Mapping[str, str],
) -> tuple[dict[str, Any], dict[str, Any]]:
  """What a file holds, checked to be what the entry has, and its record."""
  path = files / f'{entry.name}.npzs'
  if not path.exists():
    raise ValueError(
        f'{path} does not exist; --files is the folder with the files of the'
        ' catalogue, and --download fetches those that are missing'
    )
  found, content = haiku_pickle.read(path)
  if found.keys() != expected.keys():
    raise ValueError(
        f'{path} holds {sorted(found)}, expected {sorted(expected)}'
    )
  leaves, wanted = _named(found), _named(expected)
  if wrong := layout.differences(leaves, wanted):
    raise ValueError(
        f'{path} does not hold the parameters of {entry.name}:'
        f'{layout.format_list(wrong)}'
    )
  infinite = [k for k, v in leaves.items() if not np.isfinite(v).all()]
  if infinite:
    raise ValueError(
        f'{path} is damaged: these are not finite:'
        f'{layout.format_list(infinite)}'
    )
  return found, {
      'name': path.name,
      'bytes': len(content),
      'sha256': hashlib.sha256(content).hexdigest(),
      'url': urls.get(path.name),
  }


def _named(trees: Mapping[str, Any]) -> dict[str, Any]:
  """The leaves of what Haiku keeps: `params/MODULE/NAME`."""
  found = {}
  for collection, modules in trees.items():
    for module, leaves in modules.items():
      if not isinstance(leaves, Mapping):
        raise ValueError(f'{collection}/{module} is an array, not a module')
      for name, leaf in leaves.items():
        if not hasattr(leaf, 'dtype'):
          raise ValueError(f'{collection}/{module}/{name} is no array')
        found[f'{collection}/{module}/{name}'] = leaf
  return found


def _epinet_specs(entry: Entry, features: int) -> haiku_resnet.Tree:
  """Shapes of the head and of its matched prior."""
  sizes = {
      'linear_0': (entry.index_dim + features, 50),
      'linear_1': (50, entry.classes * entry.index_dim),
  }
  return {
      f'{net}/~/mlp/~/{layer}': {
          'w': jax.ShapeDtypeStruct(size, np.float32),
          'b': jax.ShapeDtypeStruct(size[1:], np.float32),
      }
      for net in ('train_epinet', 'prior_epinet')
      for layer, size in sizes.items()
  }


def _epinet(entry: Entry, found: haiku_resnet.Tree, base: Any) -> Any:
  """The variables of an epinet, but for its conv prior."""
  head, prior = (
      haiku.projected_mlp(found, net, entry.index_dim)
      for net in ('train_epinet', 'prior_epinet')
  )
  return {
      'params': {'head': head},
      'frozen': {'base': base, 'prior': {'params': prior}},
  }


def _conv_prior(entry: Entry, model: Model) -> Any:
  """The prior that no file has, as it was when the network was trained."""
  logging.info(
      'The conv prior is in no file: enn draws it anew, from seed %d, whenever'
      ' it builds the network. It is drawn here as JAX drew it when the network'
      ' was trained (jax_threefry_partitionable=False), and stored',
      haiku_resnet.SEED,
  )
  return haiku_resnet.draw_conv_prior(
      entry.conv_prior, model.dummy_input(), entry.classes, entry.index_dim
  )


def _save(model: Model, variables: Any, folder: epath.Path) -> None:
  """Saves a checkpoint with the fingerprints of its arrays."""
  mesh = sharding.create_mesh({}, jax.local_devices()[:1])
  with sharding.use_mesh(mesh, sharding.DEFAULT_RULES):
    abstract = model.abstract_variables(mesh, sharding.DEFAULT_RULES)
    where = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    state = dict(jax.device_put(variables, where))
  checkpointer = Checkpointer(folder)
  try:
    params = state.pop('params', {})
    checkpointer.save(
        {'step': jnp.int32(STEP), 'params': params, 'collections': state}, STEP
    )
    checkpointer.wait()
  finally:
    checkpointer.close()
