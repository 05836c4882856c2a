"""Predicts with a checkpoint, and says what it does not know.

  python -m flax_enn.predict --workdir=runs/digits_epinet image.png folder/
  python -m flax_enn.predict --workdir=runs/digits_epinet --split=test \
    --sheet=sheet.png --format=csv --out=predictions.csv

INPUTS are images, folders of images, .npy files with inputs [B, ...] and .npz
files with inputs x and, where they are known, labels y; --split takes those of
the run's own data set in their place. Each is preprocessed as in training.
Printed of each: the three most probable classes, and its uncertainty in nats:
total = aleatoric (noise) + epistemic (what more labels would resolve).
"""

import sys

from absl import flags, logging
from etils import epath

from flax_enn import checkpoint_flags as asked
from flax_enn import command_line, run_folder

flags.adopt_module_key_flags(asked)
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
_SHEET = flags.DEFINE_string(
    'sheet',
    None,
    'PNG to draw: the images sorted by mutual information, those that the'
    ' indices disagree on most first.',
)
_SHEET_SIZE = flags.DEFINE_integer(
    'sheet_size', 40, 'Images in the sheet, at most.', lower_bound=1
)


def run(paths: list[str]) -> None:
  """Predicts, and writes only once everything is there."""
  from flax_enn.evaluation import contact_sheet
  from flax_enn.inference import Predictor, reading, tables

  if bool(paths) == bool(asked.SPLIT.value):
    raise ValueError('give either INPUTS or --split, and not both')
  if _JOINT.value and _FORMAT.value == 'csv':
    raise ValueError(
        '--joint says something of all inputs together, for which CSV has no'
        ' place; use --format=table or json'
    )
  predictor = Predictor.load(
      asked.WORKDIR.value or '',
      step=asked.STEP.value,
      num_indices=asked.NUM_INDICES.value,
      seed=asked.SEED.value,
      allow_imports=asked.ALLOW_IMPORTS.value,
  )
  model = predictor.model
  if _SHEET.value:
    contact_sheet.check(model)
  if asked.SPLIT.value:
    from flax_enn.model import run_split

    examples = run_split(asked.WORKDIR.value or '', asked.SPLIT.value)
    inputs = reading.read_split(model, examples, asked.SPLIT.value)
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
  if asked.OUT.value:
    out = epath.Path(asked.OUT.value).expanduser()
    run_folder.atomic_write(out, text.encode())
  else:
    sys.stdout.write(text)


if __name__ == '__main__':
  command_line.main(run, 'workdir')
