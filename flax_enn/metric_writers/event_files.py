"""A writer of TensorBoard's event files that needs no TensorFlow."""

from collections.abc import Mapping
import importlib
import io
import os
import socket
import time
from typing import Any

from etils import epath
from tensorboard.plugins.scalar import metadata
from tensorboard.summary.writer import record_writer

# Made while they are imported, unknown to type checkers.
_event: Any = importlib.import_module('tensorboard.compat.proto.event_pb2')
_summary: Any = importlib.import_module('tensorboard.compat.proto.summary_pb2')
_tensor: Any = importlib.import_module('tensorboard.compat.proto.tensor_pb2')
_FLOAT = 1  # DT_FLOAT


class EventFileWriter:
  """Writes scalars; of CLU's `MetricWriter` what a run uses."""

  def __init__(self, folder: epath.Path):
    """Begins a new file in a local folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    host, now = socket.gethostname(), time.time_ns()
    name = f'events.out.tfevents.{now // 10**9}.{host}.{os.getpid()}.{now}.v2'
    self._path = os.fspath(folder / name)
    self._file = io.BufferedWriter(io.FileIO(self._path, 'x'))
    self._records = record_writer.RecordWriter(self._file)
    self._write(_event.Event(file_version='brain.Event:2'))

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes the values of a step in one event, in the form of TensorFlow 2."""
    about = metadata.create_summary_metadata(display_name='', description='')
    values = [
        _summary.Summary.Value(
            tag=name,
            metadata=about,
            tensor=_tensor.TensorProto(dtype=_FLOAT, float_val=[float(value)]),
        )
        for name, value in scalars.items()
    ]
    summary = _summary.Summary(value=values)
    self._write(_event.Event(step=step, summary=summary))

  def _write(self, event: Any) -> None:
    event.wall_time = time.time()
    try:
      self._records.write(event.SerializeToString())
      self._records.flush()
    except OSError as e:  # which does not say where
      raise OSError(e.errno, e.strerror, self._path) from e

  def flush(self) -> None:
    """Does nothing: what was written is in the file."""

  def close(self) -> None:
    """Closes the file."""
    self._file.close()
