"""Functions over the inputs around data: of a line, or of a plane."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
import numpy as np

from flax_enn.evaluation import plots

CLASSES = np.array([
    [0x1C, 0x7E, 0xD6],
    [0xF0, 0x8C, 0x00],
    [0x2F, 0x9E, 0x44],
    [0xAE, 0x3E, 0xC9],
    [0xE0, 0x31, 0x31],
    [0x0C, 0x85, 0x99],
    [0x86, 0x8E, 0x96],
    [0x66, 0xA8, 0x0F],
    [0xC2, 0x25, 0x5C],
    [0x49, 0x50, 0x57],
]) / 255  # repeated where there are more classes

Extent = tuple[float, float, float, float]


def varying(x: np.ndarray) -> np.ndarray:
  """Which of D inputs `[B, D]` are not the same in all examples."""
  return np.flatnonzero(np.ptp(x, axis=0))


def line(x: np.ndarray, points: int) -> np.ndarray:
  """`[points, D]` inputs from one corner of the box around x to the other.

  Args:
    x: `[B, D]` data; the box is wider than theirs by a quarter on each side.
    points: how many.
  """
  return np.linspace(*_box(x, 0.25), points).astype(x.dtype)


def plane(x: np.ndarray, side: int) -> tuple[np.ndarray, Extent]:
  """`[side * side, 2]` inputs, row by row, and their (left, right, low, high).

  Args:
    x: `[B, 2]` data; the box is wider than theirs by 0.35 on each side.
    side: inputs along each side of it.
  """
  low, high = _box(x, 0.35)
  sides = [np.linspace(a, b, side) for a, b in zip(low, high)]
  inputs = np.stack(np.meshgrid(*sides), -1).reshape(-1, 2).astype(x.dtype)
  return inputs, (low[0], high[0], low[1], high[1])


def plane_classes(
    ax: Axes,
    extent: Any,
    probs: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    title: str = 'Mean prediction',
    scale: bool = False,
) -> None:
  """Probabilities `[H, W, C]` as mixed colours, and data on them.

  With a `scale` there is a bar of the probability of class 1 of two.
  """
  colors = _class_colors(probs.shape[-1])
  ax.imshow(
      _pale(probs @ colors), extent=extent, origin='lower',
      aspect='auto', interpolation='bilinear',
  )
  _points(ax, x, colors[y])
  if scale and len(colors) == 2:
    mixed = LinearSegmentedColormap.from_list('', _pale(colors))
    bar = ax.figure.colorbar(ScalarMappable(cmap=mixed), ax=ax, pad=0.02)
    bar.set_label('probability of class 1')
  ax.set(title=title, xlabel='$x_1$', ylabel='$x_2$')


def plane_spread(
    ax: Axes,
    extent: Any,
    values: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    title: str = 'Disagreement of the indices',
    label: str = 'mutual information (nats)',
) -> None:
  """How far indices differ, `[H, W]`, as a map, and data on it."""
  shown = ax.imshow(
      values, extent=extent, origin='lower', aspect='auto', cmap='OrRd',
      vmin=0, interpolation='bilinear',
  )
  _points(ax, x, _class_colors(y.max() + 1)[y])
  bar = ax.figure.colorbar(shown, ax=ax, pad=0.02)
  bar.set_label(label)
  ax.set(title=title, xlabel='$x_1$', ylabel='$x_2$')


def curve(
    ax: Axes,
    grid: np.ndarray,
    preds: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    noise_std: np.ndarray,
    shown: int = 8,
) -> None:
  """Functions `[N, G]` of one input, their mean and spread, and data."""
  mean, std = preds.mean(0), preds.std(0)
  color = plots.COLORS['enn']
  bands = (
      (np.hypot(std, noise_std), 0.12, '±2 std of f(x, z) and of the noise'),
      (std, 0.25, '±2 std of f(x, z) over z'),
  )
  for width, alpha, label in bands:
    ax.fill_between(
        grid, mean - 2 * width, mean + 2 * width,
        color=color, alpha=alpha, lw=0, label=label,
    )
  for i, function in enumerate(preds[:shown]):
    label = 'f(x, z) at a few z' if i == 0 else None
    ax.plot(grid, function, color=plots.WRONG, lw=0.8, alpha=0.7, label=label)
  ax.plot(grid, mean, color=color, lw=2, label='mean over z')
  ax.plot(x, y, '.', color=plots.INK, ms=4, alpha=0.6, label='training data')
  middle = np.concatenate([y, mean])
  margin = 0.5 * np.ptp(middle)
  ax.set(
      title='What the network knows of the function',
      xlabel='x',
      ylabel='y',
      xlim=(grid[0], grid[-1]),
      ylim=(middle.min() - margin, middle.max() + margin),
  )
  ax.legend(loc='upper left', ncols=2)


def _box(x: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
  """The box around `[B, D]` points, wider by a part of its sides."""
  low, high = x.min(0), x.max(0)
  return low - margin * (high - low), high + margin * (high - low)


def _class_colors(classes: int) -> np.ndarray:
  return CLASSES[np.arange(classes) % len(CLASSES)]


def _pale(colors: np.ndarray) -> np.ndarray:
  """Colours `[..., 3]` that data stand out from."""
  return 1 - 0.75 * (1 - colors)


def _points(ax: Axes, x: np.ndarray, colors: np.ndarray) -> None:
  ax.scatter(x[:, 0], x[:, 1], 14, colors, edgecolor='white', lw=0.5)
