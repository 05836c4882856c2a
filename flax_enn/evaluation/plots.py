"""The plots of a report: each draws one thing into matplotlib axes."""

from collections.abc import Mapping
import math

from matplotlib.axes import Axes
import numpy as np

COLORS = {'base': '#8d99a6', 'enn': '#0b7285'}
WRONG = '#d9480f'
INK = '#343a40'


def reliability(
    ax: Axes,
    shares: Axes,
    calibration: Mapping[str, Mapping[str, np.ndarray]],
    metrics: Mapping[str, Mapping[str, float]],
) -> None:
  """Accuracy against confidence, and the share of examples that have it."""
  ax.plot([0, 1], [0, 1], color='#ced4da', lw=1, zorder=0)
  for i, (name, bins) in enumerate(calibration.items()):
    count = bins['count']
    seen = count > 0
    x = bins['confidence'][seen] / count[seen]
    y = bins['correct'][seen] / count[seen]
    color = COLORS[name]
    share = count / count.sum()
    ax.plot(x, y, color=color, lw=1, alpha=0.4)
    # The area of a dot is the share of examples behind it.
    ax.scatter(x, y, 10 + 180 * share[seen], color=color, zorder=3)
    label = f'{name}, ECE {metrics[name]["ece"]:.3f}'
    ax.plot([], [], 'o', color=color, label=label)
    width = 1 / len(count) / len(calibration)
    left = np.arange(len(count)) / len(count) + i * width
    shares.bar(left, share, 0.9 * width, align='edge', color=color, log=True)
  ax.set(title='Reliability', ylabel='accuracy', ylim=(0, 1.03))
  ax.tick_params(labelbottom=False)
  ax.legend(loc='upper left')
  shares.set(xlabel='confidence', ylabel='share', xlim=(0, 1.03))


def log_losses(
    ax: Axes, metrics: Mapping[str, Mapping[str, float]], tau: int
) -> None:
  """Joint against marginal log-loss, both in nats per label."""
  points = {
      name: (values['nll'], values['joint_nll'] / tau)
      for name, values in metrics.items()
  }
  finite = [v for point in points.values() for v in point if math.isfinite(v)]
  low, high = min(finite, default=0), max(finite, default=1)
  if low >= 0:
    low, high = 0, max(high, 1e-3)  # Log-losses of classes start at 0.
  margin = 0.3 * max(high - low, 0.1 * abs(high))
  limits = (low - (margin if low else 0), high + margin)
  ax.plot(limits, limits, color='#ced4da', lw=1, zorder=0)
  ax.text(
      0.03,
      0.97,
      'On the line, labels tell nothing about\neach other; below it, they do.',
      transform=ax.transAxes,
      va='top',
      color='#868e96',
      fontsize=8,
  )
  for name, (marginal, joint) in points.items():
    ax.plot(
        [marginal, marginal], [marginal, joint],
        color=COLORS[name], ls=':', lw=2,
    )
    ax.plot(marginal, joint, 'o', ms=10, color=COLORS[name])
    # Above the line and below it, so that the two never cover each other.
    side = -1 if name == 'base' else 1
    far = marginal - limits[0] > 0.7 * (limits[1] - limits[0])
    left = name == 'base' or far  # where there is room for it
    ax.annotate(
        f'{name}\n{marginal:.3f}, {joint:.3f}',
        (marginal, joint),
        xytext=(-9 if left else 9, -5 * side),
        textcoords='offset points',
        ha='right' if left else 'left',
        va='top' if side > 0 else 'bottom',
        color=COLORS[name],
        fontweight='bold',
    )
  ax.set(
      title=f'Log-loss of {tau} labels at once, and of one',
      xlabel='marginal log-loss (nats per label)',
      ylabel=f'joint log-loss / {tau} (nats per label)',
      xlim=limits,
      ylim=limits,
  )


def disagreement(ax: Axes, histogram: np.ndarray, classes: int) -> None:
  """Number of examples over disagreement, right and wrong ones."""
  highest = math.log(classes)
  edges = highest * np.linspace(0, 1, histogram.shape[1] + 1) ** 3
  names = ('right', COLORS['enn']), ('wrong', WRONG)
  for counts, (name, color) in zip(histogram, names):
    label = f'{name} ({counts.sum():.0f})'
    ax.stairs(counts, edges, fill=True, color=color, alpha=0.55, label=label)
    ax.stairs(counts, edges, color=color, lw=1.2)
  ax.set_xscale('function', functions=(np.cbrt, lambda root: root**3))
  ticks = [t for t in (0, 0.01, 0.1, 0.5, 1, 2, 4) if t <= highest]
  ax.set(
      title='Where the indices disagree',
      xlabel='mutual information of label and index (nats)',
      ylabel='examples',
      yscale='log',
      ylim=(0.7, None),
      xlim=(0, highest),
      xticks=ticks,
      xticklabels=map(str, ticks),
  )
  ax.legend(loc='upper right')


def image(ax: Axes, x: np.ndarray) -> None:
  """One image, in its own range of values."""
  low, high = x.min(), x.max()
  x = (x - low) / max(high - low, 1e-9)
  ax.imshow(x if x.shape[-1] == 3 else x[..., 0], cmap='gray_r')
  ax.set(xticks=[], yticks=[])


def votes(ax: Axes, probs: np.ndarray, label: int) -> None:
  """The share of indices that say each class, `[N, C]`, as one stacked bar."""
  share = np.bincount(probs.argmax(-1), minlength=probs.shape[-1]) / len(probs)
  left = 0.0
  for rank, c in enumerate(np.argsort(-share, kind='stable')):
    if not share[c]:
      break
    color = COLORS['enn'] if c == label else WRONG
    fade = 1.0 if c == label else max(0.95 - 0.2 * rank, 0.35)
    ax.barh(
        0, share[c], 1, left, color=color, alpha=fade, edgecolor='white', lw=1
    )
    if share[c] > 0.04 + 0.06 * len(str(c)):
      ax.text(
          *(left + share[c] / 2, 0, str(c)),
          ha='center', va='center_baseline',
          color='white',
          fontweight='bold',
      )
    left += share[c]
  ax.set(xlim=(0, 1), ylim=(-0.5, 0.5))
  ax.axis('off')
