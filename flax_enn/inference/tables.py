"""Predictions as rows: for a table, CSV or JSON."""

from collections.abc import Sequence
import csv
import io
import json
from typing import Any

import numpy as np

from flax_enn.inference import checked_input
from flax_enn.inference.functions import Functions
from flax_enn.inference.predictor import Predictor
from flax_enn.inference.reading import Inputs

TOP = 3  # most probable classes in a row

_NOT_IN_TABLE = ('max_probability', 'margin', 'variation_ratio')

Row = dict[str, Any]


def rows(predictor: Predictor, inputs: Inputs) -> list[Row]:
  """One row of each input: its name, label, prediction and uncertainty."""
  summary = predictor.summary(inputs.x)
  if 'probs' in summary:
    return _classes(predictor, inputs, summary)
  found = []
  for i, name in enumerate(inputs.names):
    row: Row = {'input': name, 'label': _label(predictor, inputs, i)}
    dim = summary['mean'].shape[1]
    for k in range(dim):
      number = f'_{k}' if dim > 1 else ''
      row |= {f'{n}{number}': float(v[i, k]) for n, v in summary.items()}
    found.append(row)
  return found


def _classes(
    predictor: Predictor, inputs: Inputs, summary: dict[str, Any]
) -> list[Row]:
  probs = summary.pop('probs')
  top = np.argsort(-probs, axis=-1, kind='stable')[:, :TOP]
  found = []
  for i, name in enumerate(inputs.names):
    row: Row = {'input': name, 'label': _label(predictor, inputs, i)}
    for rank, c in enumerate(top[i], start=1):
      row[f'class_{rank}'] = class_name(predictor, c)
      row[f'prob_{rank}'] = float(probs[i, c])
    found.append(row | {n: float(v[i]) for n, v in summary.items()})
  return found


def class_name(predictor: Predictor, number: int) -> Any:
  """The name of a class, or its number where it has none."""
  names = predictor.model.class_names
  return names[number] if names else int(number)


def joint(predictor: Predictor, inputs: Inputs) -> Row:
  """Log-probability of all labels at once, and as if they were independent.

  Of the labels where they are known, else of the most probable ones; of the
  targets in regression, or of the means.
  """
  y, of = inputs.y, 'given labels'
  if y is None:
    of = 'most probable labels'
    if predictor.model.likelihood.num_classes is None:
      y, of = predictor.mean_and_std(inputs.x)[0], 'means'
    else:
      y = predictor.probs(inputs.x).argmax(-1)
  each = predictor.programs.run_pieces(
      Functions.log_marginals,
      (predictor.variables, predictor.indices, predictor.log_weights),
      checked_input.examples(predictor.model, inputs.x, y),
  )
  return {
      'of': of,
      'log_joint': predictor.log_joint(inputs.x, y),
      'log_independent': float(each.sum()),
  }


def _label(predictor: Predictor, inputs: Inputs, row: int) -> Any:
  if inputs.y is None:
    return None
  if predictor.model.likelihood.num_classes is not None:
    return class_name(predictor, inputs.y[row])
  return ' '.join(f'{v:.6g}' for v in inputs.y[row])


def to_csv(found: Sequence[Row]) -> str:
  """The rows as CSV with a header."""
  text = io.StringIO()
  writer = csv.DictWriter(text, found[0].keys(), lineterminator='\n')
  writer.writeheader()
  writer.writerows(found)
  return text.getvalue()


def to_json(found: Sequence[Row], **more: Any) -> str:
  """The rows as `{"predictions": [...], …}`."""
  return f'{json.dumps({"predictions": found, **more}, indent=1)}\n'


def to_table(found: Sequence[Row]) -> str:
  """The rows as aligned text, without the marginal scores."""
  columns = [
      c
      for c in found[0]
      if c not in _NOT_IN_TABLE and any(row[c] is not None for row in found)
  ]
  cells = [columns, *([_text(row[c]) for c in columns] for row in found)]
  widths = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join(
      '  '.join(
          cell.ljust(width) if i == 0 else cell.rjust(width)
          for i, (cell, width) in enumerate(zip(row, widths))
      ).rstrip()
      for row in cells
  )


def _text(value: Any) -> str:
  if isinstance(value, float):
    return f'{value:.4f}'
  return '' if value is None else str(value)
