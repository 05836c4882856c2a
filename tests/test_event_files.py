"""Curves are written without TensorFlow, and TensorBoard reads them."""

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util.tensor_util import make_ndarray

from flax_enn.metric_writers import event_files
from tests import tiny


def test_tensorboard_reads_what_is_written(tmp_path):
  """Its own reader, which checks the sums of every record."""
  folder = tmp_path / 'run'
  first, second = (event_files.EventFileWriter(folder) for _ in range(2))
  first.write_scalars(1, {'loss': np.float32(0.1), 'test_enn/nll': 2.5})
  second.write_scalars(2**40, {'loss': float('nan')})
  # In the file before it is closed.
  loaded = event_accumulator.EventAccumulator(str(folder)).Reload()
  found = {
      tag: [
          (e.step, float(make_ndarray(e.tensor_proto)))
          for e in loaded.Tensors(tag)
      ]
      for tag in loaded.Tags()['tensors']
  }
  assert found['test_enn/nll'] == [(1, 2.5)]
  assert found['loss'][0] == (1, float(np.float32(0.1)))
  assert found['loss'][1][0] == 2**40
  assert np.isnan(found['loss'][1][1])
  first.close()
  second.close()
  with pytest.raises(ValueError, match='closed'):
    first.write_scalars(3, {'loss': 1.0})


IMPORTS = """
import sys
from etils import epath
from flax_enn.metric_writers import clu_imports
from flax_enn import metric_writers
from flax_enn.training import default_config
workdir = epath.Path(sys.argv[1])
with metric_writers.create_writer(workdir) as writer:
  hooks = metric_writers.create_hooks(workdir, writer, default_config(), None)
  writer.write_scalars(1, {'loss': 1.0})
print('imported', 'tensorflow' in sys.modules)
"""


def test_curves_and_progress_import_no_tensorflow(tmp_path):
  with tiny.python('-c', IMPORTS, str(tmp_path)) as process:
    said, _ = process.communicate()
  assert process.returncode == 0, said
  assert 'imported False' in said
  assert len(list(tmp_path.glob('events.out.tfevents.*'))) == 1


@pytest.mark.slow
def test_the_writer_of_clu_is_there_for_a_bucket(tmp_path):
  code = f"""{IMPORTS}
writer = clu_imports.metric_writers().SummaryWriter(sys.argv[1])
print('CLU', type(writer).__module__, 'tensorflow' in sys.modules)
"""
  with tiny.python('-c', code, str(tmp_path)) as process:
    said, _ = process.communicate()
  assert process.returncode == 0, said
  assert 'CLU clu.metric_writers.tf.summary_writer True' in said
