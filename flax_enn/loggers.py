"""What an experiment in memory tells how it goes."""

from collections.abc import Mapping
import time
from typing import Any, Protocol

import numpy as np


class Logger(Protocol):
  """What an experiment tells how it goes."""

  def write(self, values: Mapping[str, Any]) -> None:
    """Takes the values of a step, numbers or arrays `[]`, and its `dataset`."""
    ...

  def flush(self) -> None:
    """Shows what was held back."""
    ...


class TerminalLogger:
  """Prints a line for each data set, at most every so many seconds.

  Values that are not shown are not fetched from the device either.
  """

  def __init__(self, label: str = 'experiment', *, seconds: float = 1.0):
    """Begins every line with `label`."""
    self._label, self._seconds = label, seconds
    self._held: dict[str, Mapping[str, Any]] = {}
    self._shown: dict[str, float] = {}

  def write(self, values: Mapping[str, Any]) -> None:
    """Prints the values, or holds them back until `flush`."""
    dataset, now = str(values['dataset']), time.monotonic()
    if now - self._shown.get(dataset, -np.inf) < self._seconds:
      self._held[dataset] = values
      return
    self._held.pop(dataset, None)
    self._shown[dataset] = now
    self._print(values)

  def flush(self) -> None:
    """Prints what is newest of each data set."""
    for values in self._held.values():
      self._print(values)
    self._held.clear()

  def _print(self, values: Mapping[str, Any]) -> None:
    cells = (
        f'{k} {v}' if isinstance(v, (str, int)) else f'{k} {float(v):.4g}'
        for k, v in values.items()
    )
    print(f'[{self._label}]', '  '.join(cells), flush=True)


class SilentLogger:
  """Says nothing: for many runs at once."""

  def write(self, values: Mapping[str, Any]) -> None:
    """Takes the values of a step, and forgets them."""
    del values

  def flush(self) -> None:
    """Has nothing to show."""
