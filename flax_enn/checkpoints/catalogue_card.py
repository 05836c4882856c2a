"""What the folder of an imported run says of where it is from."""

from collections.abc import Mapping
from importlib import metadata
import sys
from typing import Any

from flax_enn.checkpoints import haiku_resnet
from flax_enn.checkpoints.catalogue import REPOSITORY, Entry, Temperatures
from flax_enn.checkpoints.enn_figures import FIGURES, table


def create(
    entry: Entry,
    temperatures: Temperatures,
    conv_prior_scale: float,
    records: list[dict[str, Any]],
) -> dict[str, Any]:
  """The content of `import.json`."""
  card = {
      'entry': entry.name,
      'files': records,
      'temperatures': temperatures._asdict(),
      'figures': FIGURES.get(entry.name, {}),
      'versions': {
          'flax_enn': sys.modules['flax_enn'].__version__,
          **{name: metadata.version(name) for name in ('flax', 'jax', 'numpy')},
      },
  }
  if conv_prior_scale:
    card['conv_prior'] = {
        'scale': conv_prior_scale,
        'seed': haiku_resnet.SEED,
        'jax_threefry_partitionable': False,
    }
  return card


def readme(card: Mapping[str, Any]) -> str:
  """The content of `README.md`."""
  lines = [
      f'# {card["entry"]}',
      '',
      'From the catalogue that DeepMind published with enn'
      f' ({REPOSITORY}). Read from',
      '',
      *(
          f'- `{of["name"]}` ({of["bytes"]} bytes, SHA-256 `{of["sha256"]}`'
          + (f', {of["url"]}' if of['url'] else '') + ')'
          for of in card['files']
      ),
      '',
      'DeepMind publishes no hashes: these say what was read.',
  ]  # fmt: skip
  if prior := card.get('conv_prior'):
    lines += [
        '',
        f'Its conv prior (scale {prior["scale"]}) is in no file. It was drawn'
        f' from seed {prior["seed"]} as JAX drew it when the network was'
        ' trained (`jax_threefry_partitionable=False`), and is stored in the'
        ' checkpoint. With the setting of today, enn would draw another one,'
        ' which has nothing to do with it.',
    ]
  of = card['temperatures']
  lines += [
      '',
      f'Temperatures: {of["base"]} of the base, {of["epinet"]} of the epinet'
      f' ({of["source"]}).',
  ]
  if card['figures']:
    lines += ['', "enn's own figures:", '', table(card['figures'])]
  versions = ', '.join(f'{k} {v}' for k, v in card['versions'].items())
  return '\n'.join([*lines, '', f'Imported with {versions}.', ''])
