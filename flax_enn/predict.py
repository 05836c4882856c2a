"""Predicts with a checkpoint, and says what it does not know.

  python -m flax_enn.predict --workdir=runs/digits_epinet image.png folder/
  python -m flax_enn.predict --workdir=runs/digits_epinet --split=test \
    --sheet=sheet.png --format=csv --out=predictions.csv

INPUTS are images, folders of images, .npy files with inputs [B, ...] and .npz
files with inputs x and, where they are known, labels y. Each is preprocessed as
in training. Printed of each: the three most probable classes, and its
uncertainty in nats: total = aleatoric (noise) + epistemic (what more labels
would resolve).
"""

import sys

from absl import flags, logging
from etils import epath

from flax_enn import command_line, run_folder

_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'Folder of a run, or of a bundle that was exported.'
)
_STEP = flags.DEFINE_string(
    'step', 'best', "Checkpoint of a run: a number, 'latest' or 'best'."
)
_NUM_INDICES = flags.DEFINE_integer(
    'num_indices',
    None,
    "Epistemic indices; by default as many as the run's own evaluation has.",
    lower_bound=1,
)
_SEED = flags.DEFINE_integer(
    'seed', None, "Of the indices; by default those of the run's evaluation."
)
_SPLIT = flags.DEFINE_enum(
    'split',
    None,
    ['train', 'validation', 'test'],
    "Predicts on this split of the run's own data set, in place of INPUTS.",
)
_GIVEN = flags.DEFINE_string(
    'given',
    None,
    'Evidence to condition on first: a .csv with the columns input (a path, or'
    ' data.npz[3]) and label (class number or name), or a .npz with x and y.',
)
_JOINT = flags.DEFINE_bool(
    'joint',
    False,
    'Adds the log-probability of all labels at once (of those that are known,'
    ' else of the most probable ones), beside the sum of the single ones.',
)
_FORMAT = flags.DEFINE_enum(
    'format', 'table', ['table', 'csv', 'json'], 'Of what is printed.'
)
_OUT = flags.DEFINE_string(
    'out', None, 'File to write to, in place of standard output.'
)
_SHEET = flags.DEFINE_string(
    'sheet',
    None,
    'PNG to draw: the images sorted by mutual information, those that the'
    ' indices disagree on most first.',
)
_SHEET_SIZE = flags.DEFINE_integer(
    'sheet_size', 40, 'Images in the sheet, at most.', lower_bound=1
)
_ALLOW_IMPORTS = flags.DEFINE_bool(
    'allow_imports',
    False,
    "Lets the config of the run name classes outside of flax_enn ('package"
    ".module:Class'), whose code is then run.",
)


def run(paths: list[str]) -> None:
  """Predicts, and writes only once everything is there."""
  from flax_enn.evaluation import contact_sheet
  from flax_enn.inference import Predictor, reading, tables

  if bool(paths) == bool(_SPLIT.value):
    raise ValueError('give either INPUTS or --split, and not both')
  if _JOINT.value and _FORMAT.value == 'csv':
    raise ValueError(
        '--joint says something of all inputs together, for which CSV has no'
        ' place; use --format=table or json'
    )
  predictor = Predictor.load(
      _WORKDIR.value or '',
      step=_STEP.value,
      num_indices=_NUM_INDICES.value,
      seed=_SEED.value,
      allow_imports=_ALLOW_IMPORTS.value,
  )
  model = predictor.model
  if _SHEET.value:
    contact_sheet.check(model)
  if _SPLIT.value:
    from flax_enn.model import run_split

    examples = run_split(_WORKDIR.value or '', _SPLIT.value)
    inputs = reading.read_split(model, examples, _SPLIT.value)
  else:
    inputs = reading.read(model, paths)
  if _GIVEN.value:
    evidence = reading.read_labelled(model, _GIVEN.value)
    predictor = predictor.condition(evidence.x, evidence.y)
    logging.info(
        'Conditioned on %d labels; effective sample size %.1f of %d indices',
        len(evidence.names), predictor.effective_sample_size,
        predictor.num_indices,
    )
  rows = tables.rows(predictor, inputs)
  joint = {'joint': tables.joint(predictor, inputs)} if _JOINT.value else {}
  if _FORMAT.value == 'json':
    text = tables.to_json(rows, **joint)
  elif _FORMAT.value == 'csv':
    text = tables.to_csv(rows)
  else:
    text = f'{tables.to_table(rows)}\n'
    if joint:
      text += (
          '\nLog-probability of all {of} at once {log_joint:.4f}, one by one'
          ' {log_independent:.4f} (nats)\n'
      ).format(**joint['joint'])
  if _SHEET.value:
    picture = contact_sheet.draw(predictor, inputs, rows, _SHEET_SIZE.value)
    run_folder.atomic_write(epath.Path(_SHEET.value).expanduser(), picture)
    logging.info('See %s', _SHEET.value)
  if _OUT.value:
    run_folder.atomic_write(epath.Path(_OUT.value).expanduser(), text.encode())
  else:
    sys.stdout.write(text)


if __name__ == '__main__':
  command_line.main(run, 'workdir')
