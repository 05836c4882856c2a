"""Files of a run that are there whole or not at all."""

from etils import epath
import jax


def write_file(path: epath.Path, content: bytes) -> None:
  """Writes a file from one process so that no reader ever sees half of it."""
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_bytes(content)
    part.replace(path)
