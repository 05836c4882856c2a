"""Which examples of a run could not be read, and why, in its folder."""

import collections

from etils import epath
import jax

from flax_enn.run_folder import read_json, write_json


class Skipped(collections.UserDict[int, str]):
  """id -> why the example cannot be read; a new one is written at once.

  Every process writes those that it has met, and begins with those that all
  have met before: a count of it survives whatever ends the run.
  """

  def __init__(self, folder: epath.Path):
    """Reads what is known.

    Args:
      folder: one for each stream of examples.

    Raises:
      ValueError: a file in it cannot be read.
    """
    super().__init__()
    self._path = folder / f'{jax.process_index()}.json'
    # Not by a pattern, which in a bucket the name of the run would be part of.
    files = folder.iterdir() if folder.exists() else ()
    for path in sorted(path for path in files if path.suffix == '.json'):
      self.data |= {int(k): why for k, why in read_json(path).items()}

  def __setitem__(self, key: int, item: str) -> None:
    super().__setitem__(key, item)
    write_json(self._path, self.data, process=jax.process_index())
