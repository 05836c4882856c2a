"""Imports a file of DeepMind's catalogue as the folder of a run.

  python -m flax_enn.checkpoints.deepmind resnet50_epinet_imagenet \
    --files=downloads --out=runs/enn_resnet50
  python -m flax_enn.checkpoints.deepmind resnet50_epinet_imagenet \
    --out=runs/enn_resnet50 --compare=processed_batch.npzs

NAME is that of a file without .npzs; an epinet finds its base beside it:

  resnet{50,101,152,200}{,_epinet}_imagenet
  resnet{18,32,44,56,110}{,_epinet}_{cifar10,cifar100}

The files are pickles, of which nothing is run: what no file of the catalogue
has in it is refused. The folder is written atomically, and is opened by
Predictor.load, flax_enn.evaluate and config.init like any other.
"""

from absl import flags
from etils import epath

from flax_enn import command_line, run_folder
from flax_enn.checkpoints import (
    catalogue,
    catalogue_import,
    download,
    enn_figures,
)
from flax_enn.checkpoints.layout import format_list

_FILES = flags.DEFINE_string('files', None, 'Folder with the .npzs files.')
_OUT = flags.DEFINE_string(
    'out', None, 'Folder of the run: a new one, or with --compare an import.'
)
_DOWNLOAD = flags.DEFINE_bool(
    'download',
    False,
    'Downloads what is missing into --files, and the file of --compare: over'
    ' TLS that is verified.',
)
_URL = flags.DEFINE_string(
    'url', catalogue.URL, 'Where --download finds the files: https alone.'
)
_TEMPERATURES = flags.DEFINE_string(
    'temperatures',
    'enn',
    'Whose logits are divided by what: those that enn has now, or for CIFAR'
    " 'dropped', those it had before its commit 11eb695a: base 1.1 and epinet"
    ' 0.5 for CIFAR-10, 1.0 and 0.5 for CIFAR-100.',
)
_CONV_PRIOR_SCALE = flags.DEFINE_float(
    'conv_prior_scale',
    None,
    "Scale of the conv prior of an epinet, in place of enn's: 1 for ImageNet, 0"
    ' for CIFAR-10, 0.5 for CIFAR-100.',
)
_COMPARE = flags.DEFINE_string(
    'compare',
    None,
    "Images and labels as in enn's processed_batch.npzs: scores the import on"
    " them, beside what enn's own notebook printed.",
)


def run(names: list[str]) -> None:
  """Imports, compares, or both."""
  if len(names) != 1:
    raise ValueError(
        f'expected one NAME, found {names}; known:'
        f' {", ".join(catalogue.ENTRIES)}'
    )
  entry = catalogue.entry(names[0])
  out = epath.Path(_OUT.value or '').expanduser()
  imported = out / run_folder.IMPORT
  if not (_COMPARE.value and imported.exists()):
    import_files(entry, out)
  if _COMPARE.value:
    compare(entry, out)


def import_files(entry: catalogue.Entry, out: epath.Path) -> None:
  """Imports an entry."""
  if not _FILES.value:
    raise ValueError('--files is not given: the folder with the .npzs files')
  temperatures = entry.temperatures(_TEMPERATURES.value)
  files, urls = epath.Path(_FILES.value).expanduser(), {}
  if _DOWNLOAD.value:
    wanted = dict.fromkeys((entry.base.name, entry.name))
    urls = download.fetch_missing(
        [f'{name}.npzs' for name in wanted], files, _URL.value
    )
  card = catalogue_import.import_entry(
      entry, files, out, temperatures, _CONV_PRIOR_SCALE.value, urls
  )
  for of in card['files']:
    print(f'{of["name"]}: {of["bytes"]} bytes, SHA-256 {of["sha256"]}')
  if prior := card.get('conv_prior'):
    print(
        f'Conv prior: in no file; drawn from seed {prior["seed"]} as JAX drew'
        ' it when the network was trained (jax_threefry_partitionable=False),'
        f' scale {prior["scale"]}, and stored'
    )
  print(f'{out}: {entry.name} at step {catalogue_import.STEP}')


def compare(entry: catalogue.Entry, out: epath.Path) -> None:
  """Prints what an import scores, and what enn printed.

  Raises:
    ValueError: it is another entry, or scores something else.
  """
  if (found := catalogue.read_card(out)['entry']) != entry.name:
    raise ValueError(f'{out} is an import of {found}, not of {entry.name}')
  path = epath.Path(_COMPARE.value or '').expanduser()
  if _DOWNLOAD.value:
    download.fetch_missing([path.name], path.parent, _URL.value)
  rows = enn_figures.compare(out, path)
  print(f'\n{out} on {path}:\n\n{enn_figures.table(rows)}')
  figures = enn_figures.FIGURES.get(entry.name)
  if not figures:
    print(f'\nenn printed no figures of {entry.name}')
    return
  print(f'\nenn printed:\n\n{enn_figures.table(figures)}')
  if wrong := enn_figures.differences(rows, figures):
    raise ValueError(
        f'{out} does not score what enn printed:{format_list(wrong)}\n'
        f'is {path} the file that it printed them of?'
    )
  print('\nThey agree.')


if __name__ == '__main__':
  command_line.main(run, 'out')
