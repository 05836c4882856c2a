"""A Predictor of an ImageNet epinet with fake weights: loading and predicting.

  python -m benchmarks.predictor --batch_size=64

`load` is measured in a process of its own: seconds, and by how much the memory
of the host and what is read from the disk exceed the arrays of the network. The
times of predictions at 1,000 indices are in passes of the base alone.
"""

import functools
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from absl import app, flags
import jax
import numpy as np
import tensorstore as ts

from benchmarks import timing
from configs import imagenet_epinet
from flax_enn import run_folder
from flax_enn.checkpoints import Checkpointer
from flax_enn.inference import Predictor
from flax_enn.training.trainer import Trainer

_DEPTH = flags.DEFINE_string('depth', '50', 'Of the ResNet.')
_SIDE = flags.DEFINE_integer('side', 224, 'Side of the images in pixels.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'Images.')
_LABELS = flags.DEFINE_integer(
    'labels', 100, 'Conditioned on with new indices; 0 for CPUs.'
)
_LOAD = flags.DEFINE_string('load', None, 'Only measures loading this run.')

CLASSES = 1000


def save(folder: pathlib.Path) -> None:
  """Writes a run of one step, which was not taken."""
  shape = (_SIDE.value, _SIDE.value, 3)
  config = imagenet_epinet.get_config(_DEPTH.value)
  config = timing.fake(config, _BATCH_SIZE.value, shape, CLASSES)
  trainer = Trainer.from_config(config)
  run_folder.write_config(config, folder)
  run_folder.write_json(folder / 'model.json', trainer.model.describe())
  with trainer.use_mesh():
    checkpointer = Checkpointer(folder)
    checkpointer.save(trainer.create_state(), 1)
    checkpointer.close()


def load(folder: str) -> dict[str, float]:
  """Seconds and bytes of loading a run in this process."""
  jax.block_until_ready(jax.numpy.zeros(1))
  before, start = _memory(), time.perf_counter()
  busy = time.process_time()
  predictor = Predictor.load(folder)
  jax.block_until_ready(predictor.variables)
  took = time.perf_counter() - start
  arrays = sum(leaf.nbytes for leaf in jax.tree.leaves(predictor.variables))
  metrics = ts.experimental_collect_matching_metrics('/tensorstore/kvstore')
  read = sum(
      m['values'][0]['value']
      for m in metrics
      if m['name'].endswith('bytes_read')
  )
  return {
      'seconds': took,
      'cpu_seconds': time.process_time() - busy,
      'arrays_mb': arrays / 1e6,
      'memory_over_arrays': (_memory() - before) / arrays,
      'read_over_arrays': read / arrays,
  }


def _memory() -> int:
  """The most bytes that this program has had in memory, on Linux."""
  # Not `getrusage`, which begins with what the parent had.
  status = pathlib.Path('/proc/self/status').read_text()
  return 1024 * int(re.findall(r'VmHWM:\s+(\d+) kB', status)[0])


def predictions(folder: pathlib.Path) -> None:
  """Measures what a predictor is asked for."""
  predictor = Predictor.load(folder)
  rng, n = np.random.default_rng(0), _BATCH_SIZE.value
  shape = (_SIDE.value, _SIDE.value, 3)
  x = rng.normal(size=(n, *shape)).astype(np.float32)
  y = rng.integers(0, CLASSES, n)
  model, variables = predictor.model, predictor.variables
  mean = model.network.indexer.mean_index
  base = jax.jit(lambda v, x: model.apply(v, x, mean).base)
  on_device = jax.device_put(x)
  times = timing.side_by_side(
      {
          'base': functools.partial(base, variables, on_device),
          'uncertainty': functools.partial(predictor.uncertainty, x),
          'log_joint': functools.partial(predictor.log_joint, x, y),
          'condition': lambda: predictor.condition(
              x, y, refine=False
          ).log_weights,
      },
      rounds=3,
  )
  timing.print_row(
      f'B = {n}, N = {predictor.num_indices}',
      base_ms=1e3 * times['base'],
      **{k: v / times['base'] for k, v in times.items() if k != 'base'},
  )
  count = min(_LABELS.value, n)
  for name in ('first', 'again') if count else ():
    start = time.perf_counter()
    informed = predictor.condition(x[:count], y[:count])
    jax.block_until_ready(informed.indices)
    took = time.perf_counter() - start
    what = f'{count} labels, indices drawn anew, {name}'
    timing.print_row(what, seconds=took)
  for name in ('first', 'again'):
    start = time.perf_counter()
    predictor.information_gain(x[: n // 2], x[-10:])
    took = time.perf_counter() - start
    timing.print_row(
        f'gain of {n // 2} labels about 10, {name}', seconds=took
    )


def main(argv: list[str]) -> None:
  """Measures all of it."""
  if _LOAD.value:
    print(json.dumps(load(_LOAD.value)))
    return
  timing.print_machine()
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    save(folder)
    said = subprocess.run(
        [sys.executable, '-m', 'benchmarks.predictor', f'--load={folder}'],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    timing.print_row('load', **json.loads(said.splitlines()[-1]))
    predictions(folder)
  del argv


if __name__ == '__main__':
  app.run(main)
