"""A contact sheet: images by how much the indices disagree on them."""

from collections.abc import Sequence
import io
import math

import numpy as np

from flax_enn.inference.predictor import Predictor
from flax_enn.inference.reading import Inputs
from flax_enn.inference.tables import Row
from flax_enn.model import Model

_COLUMNS = 8


def check(model: Model) -> None:
  """Raises a ValueError where inputs are not images, or outputs not classes."""
  shape = getattr(model.input_spec, 'shape', ())
  images = len(shape) == 3 and shape[-1] in (1, 3)
  if not images or model.likelihood.num_classes is None:
    raise ValueError(
        'a contact sheet shows classified images; this model takes'
        f' {model.input_spec} and predicts {model.likelihood}'
    )


def draw(
    predictor: Predictor, inputs: Inputs, rows: Sequence[Row], most: int
) -> bytes:
  """A PNG of the images with the largest mutual information, largest first.

  Args:
    predictor: that made the rows, with its number of indices.
    inputs: images `[B, H, W, channels]`.
    rows: from `tables.rows`.
    most: how many are shown.
  """
  # matplotlib takes its time, and training has its own report.
  import matplotlib
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure

  from flax_enn.evaluation import plots

  order = np.argsort([-row['epistemic'] for row in rows], kind='stable')[:most]
  lines = math.ceil(len(order) / _COLUMNS)
  figure = Figure(
      (1.7 * _COLUMNS, 2.35 * lines + 0.6), dpi=110, layout='constrained'
  )
  canvas = FigureCanvasAgg(figure)
  figure.suptitle(
      f'What {predictor.num_indices} indices disagree on most: {len(order)} of'
      f' {len(rows)} images',
      x=0.01, ha='left', fontweight='bold', color=plots.INK,
  )
  axes = figure.subplots(lines, _COLUMNS, squeeze=False).flat
  with matplotlib.rc_context({'font.size': 7.5}):
    for ax in axes:
      ax.axis('off')
    for ax, i in zip(figure.axes, order):
      ax.axis('on')
      plots.image(ax, inputs.x[i])
      row = rows[i]
      label = row['label']
      right = label is None or label == row['class_1']
      ax.set_title(
          f'label {label}' if label is not None else _shortened(row['input']),
          color=plots.COLORS['enn'] if right else plots.WRONG,
          fontsize=8, fontweight='bold',
      )
      ranks = [k for k in (1, 2, 3) if f'class_{k}' in row]
      top = '\n'.join(
          f'{_shortened(str(row[f"class_{k}"]))}  {row[f"prob_{k}"]:.2f}'
          for k in ranks
      )
      ax.set_xlabel(
          f'{top}\ntotal {row["total"]:.2f}, epistemic {row["epistemic"]:.2f}',
          fontsize=7.5, color=plots.INK,
      )
  buffer = io.BytesIO()
  canvas.print_png(buffer)
  return buffer.getvalue()


def _shortened(name: str) -> str:
  return name if len(name) <= 22 else f'…{name[-21:]}'
