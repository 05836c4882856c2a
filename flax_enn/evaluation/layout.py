"""How pictures are laid out: their style, and the places of plots in them."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.gridspec import GridSpec
import numpy as np

from flax_enn.evaluation import plots

# For `matplotlib.rc_context`.
STYLE = {
    'axes.edgecolor': '#adb5bd',
    'axes.labelcolor': plots.INK,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlecolor': plots.INK,
    'axes.titlelocation': 'left',
    'axes.titlesize': 11,
    'axes.titleweight': 'bold',
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'legend.frameon': False,
    'text.color': plots.INK,
    'xtick.color': '#868e96',
    'ytick.color': '#868e96',
}


def grid(
    figure: Figure | SubFigure, rows: int, columns: int, **ratios: Any
) -> GridSpec:
  """Places for plots, with room around them for what is written there.

  Margins are in inches: matplotlib's own layouts draw everything once more to
  find them.
  """
  width, height = np.divide(figure.bbox.size, figure.dpi)
  return figure.add_gridspec(
      rows, columns, left=0.85 / width, right=1 - 0.25 / width,
      bottom=0.6 / height, top=1 - 0.45 / height, wspace=0.28, hspace=0.1,
      **ratios,
  )  # fmt: skip


def row(
    figure: Figure | SubFigure, columns: int, **ratios: Any
) -> list[Axes]:
  """Axes beside each other, in such places."""
  places = grid(figure, 1, columns, **ratios)
  return [figure.add_subplot(places[i]) for i in range(columns)]


def halves(figure: Figure) -> tuple[SubFigure, SubFigure]:
  """The upper and the lower half, which is a little higher."""
  parts = figure.subfigures(2, squeeze=False, height_ratios=(1, 1.1))
  return parts[0, 0], parts[1, 0]
