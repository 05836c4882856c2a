"""The user's own arrays, from one `.npz` file."""

import dataclasses
import functools
import zipfile

from etils import epath
import numpy as np

from flax_enn.data.base import HeldOut, InMemory

KEYS = ('x_train', 'y_train', 'x_test', 'y_test')


@dataclasses.dataclass(frozen=True)
class Arrays(HeldOut):
  """`x_train, y_train, x_test, y_test` of a file that `np.savez` wrote.

  Bytes (uint8) in `x` are scaled to [0, 1], and grey images of bytes
  `[B, height, width]` get an axis of channels; other inputs are taken as they
  are. Integers `[B]` in `y` are labels; floats `[B]` or `[B, C]` are targets of
  a regression.

  Attributes:
    path: of the file.
    num_classes: of labels; None to count those of the training split.
    noise_std: of targets, standard deviation of their noise.
  """

  path: str
  num_classes: int | None = None
  noise_std: float = 1.0

  @property
  def task(self) -> str:
    """See `Dataset`."""
    return 'classification' if self._train.y.ndim == 1 else 'regression'

  @property
  def classes(self) -> int:
    """See `Dataset`."""
    y = self._train.y
    if y.ndim > 1:
      return y.shape[1]
    return self.num_classes or int(y.max()) + 1

  @property
  def shape(self) -> tuple[int, ...]:
    """See `Dataset`."""
    return self._train.x.shape[1:]

  @property
  def _train(self) -> InMemory:
    return self._splits['train']

  def load(self, split: str) -> InMemory:
    """See `HeldOut`."""
    return self._splits[split]

  @functools.cached_property
  def _splits(self) -> dict[str, InMemory]:
    """Both splits, read and checked once."""
    arrays = self._read()
    splits = {}
    for split in ('train', 'test'):
      x, y = (f'{name}_{split}' for name in 'xy')
      sizes = [arrays[name].shape[:1] for name in (x, y)]
      if sizes[0] != sizes[1] or sizes[0] in ((), (0,)):
        raise self._error(
            f'{x} of shape {list(arrays[x].shape)} and {y} of'
            f' {list(arrays[y].shape)}; expected as many examples in both, and'
            ' at least one'
        )
      splits[split] = InMemory(
          self._inputs(x, arrays[x]), self._targets(y, arrays[y])
      )
    train, test = splits['train'], splits['test']
    for name, a, b in (('x', train.x, test.x), ('y', train.y, test.y)):
      if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        raise self._error(
            f'{name}_train of {a.dtype}{list(a.shape)} and {name}_test of'
            f' {b.dtype}{list(b.shape)}; one example of both must look alike'
        )
    if train.y.ndim > 1:
      return splits
    self._check_labels(train.y, test.y)
    return {
        split: InMemory(source.x, source.y.astype(np.int32))
        for split, source in splits.items()
    }

  def _read(self) -> dict[str, np.ndarray]:
    path = epath.Path(self.path).expanduser()
    if not path.is_file():
      raise self._error('no such file; expected a .npz file')
    try:
      with path.open('rb') as f, np.load(f) as archive:
        arrays = {key: archive[key] for key in archive}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as e:
      raise self._error(f'which cannot be read: {e}') from e
    missing = [key for key in KEYS if key not in arrays]
    if missing:
      raise self._error(f'no arrays {missing}; it has {sorted(arrays)}')
    return arrays

  def _inputs(self, name: str, x: np.ndarray) -> np.ndarray:
    """`[B, ...]` inputs as bytes or float32."""
    if x.dtype == np.uint8:
      return x[..., None] if x.ndim == 3 else x
    return self._floats(name, x)

  def _targets(self, name: str, y: np.ndarray) -> np.ndarray:
    """`[B]` int64 labels or `[B, C]` float32 targets."""
    if y.ndim not in (1, 2):
      raise self._error(
          f'{name} of shape {list(y.shape)}; expected [B] or [B, C]'
      )
    if y.dtype.kind in 'iu':
      if y.ndim == 1:
        return y.astype(np.int64)
      raise self._error(
          f'{name} of integers {list(y.shape)}; labels are integers [B], and'
          ' targets of a regression are floats'
      )
    return self._floats(name, y[:, None] if y.ndim == 1 else y)

  def _floats(self, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind not in 'biuf':
      raise self._error(f'{name} of type {values.dtype}; expected numbers')
    values = values.astype(np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
      bad = np.flatnonzero(~finite)
      raise self._error(
          f'values in {name} that are not finite, in {len(bad)} examples, the'
          f' first of them {bad[:5].tolist()}'
      )
    return values

  def _check_labels(self, train: np.ndarray, test: np.ndarray) -> None:
    """Checks that labels count from 0 without an end."""
    found = np.unique(train[train >= 0])
    gaps = np.flatnonzero(found != np.arange(len(found)))
    if self.num_classes is None and len(gaps):
      raise self._error(
          f'labels up to {found[-1]} in y_train (example {train.argmax()}), but'
          f' never {gaps[0]}; set config.dataset.num_classes if that is right'
      )
    classes = self.num_classes or int(train.max()) + 1
    for name, y in (('y_train', train), ('y_test', test)):
      bad = np.flatnonzero((y < 0) | (y >= classes))
      if len(bad):
        raise self._error(
            f'the label {y[bad[0]]} in {name} (example {bad[0]}), but labels'
            f' are 0 to {classes - 1}; correct it or set'
            ' config.dataset.num_classes'
        )

  def _error(self, found: str) -> ValueError:
    return ValueError(f'config.dataset.path is {self.path!r}: {found}')
