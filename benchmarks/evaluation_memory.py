"""Peak memory of an evaluation with few indices, and with many.

  python -m benchmarks.evaluation_memory

The head is that of the ImageNet epinet, with its matched prior. The base is one
frozen layer as wide as a ResNet's features, and the images are noise. Every
number of indices gets a process of its own: its peak is all that it ever held,
with Python, the compiler, the parameters and the batches.

Expected on two CPU cores: ratios of 0.9 to 1.1 with the chunk of the ImageNet
configs (8) and batches of 64 to 1024. With --chunk=100 it is 1.7: the memory is
that of chunk x batch size x classes numbers, and 10 indices are no full chunk.
"""

import resource
import subprocess
import sys
import time

from absl import app, flags, logging
import jax
import jax.numpy as jnp

from benchmarks import timing
from flax_enn.data import Loader
from flax_enn.data.fake import Fake
from flax_enn.evaluation.scorer import Scorer
from flax_enn.model import Model
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen

_NUM_INDICES = flags.DEFINE_list(
    'num_indices', ['10', '1000'], 'The numbers of indices to compare.'
)
_CHUNK = flags.DEFINE_integer('chunk', 8, 'Indices mapped over at once.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 256, 'Examples in a batch.')
_BATCHES = flags.DEFINE_integer('batches', 3, 'Batches to evaluate.')
_SIDE = flags.DEFINE_integer('side', 32, 'Side of the square images in pixels.')

_SELF = ('-m', 'benchmarks.evaluation_memory')
CLASSES = 1000
FEATURES = 2048


def measure(num_indices: int) -> tuple[float, float, float]:
  """Evaluates in this process.

  Returns:
    Peak memory in MiB before the evaluation and in the end, and its seconds.
  """
  dataset = Fake(
      shape=(_SIDE.value, _SIDE.value, 3),
      classes=CLASSES,
      n_test=_BATCHES.value * _BATCH_SIZE.value,
  )
  network = Epinet(
      base=Frozen(MLP(hiddens=(FEATURES,), classes=CLASSES)),
      classes=CLASSES,
      features=('hidden_0',),
      index_dim=30,
      hiddens=(50,),
  )
  keys = {'params': jax.random.key(0), 'frozen': jax.random.key(1)}
  x, index = jnp.zeros((1, *dataset.shape)), jnp.zeros(network.index_dim)
  variables = jax.block_until_ready(jax.jit(network.init)(keys, x, index))
  spec = dataset.spec
  scorer = Scorer(
      model=Model(network, spec.likelihood, spec.input_spec),
      batch_size=_BATCH_SIZE.value,
      num_indices=num_indices,
      chunk=_CHUNK.value,
  )
  before, start = _peak(), time.monotonic()
  batches = Loader().eval_batches(
      dataset, 'test', spec, batch_size=_BATCH_SIZE.value
  )
  scorer(variables, batches, jax.random.key(2))
  return before, _peak(), time.monotonic() - start


def _peak() -> float:
  """The most memory that this process has held, in MiB."""
  units = 2**20 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / units


def main(argv: list[str]) -> None:
  """Measures in this process, or each number of indices in one of its own."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  if len(_NUM_INDICES.value) == 1:
    logging.set_verbosity(logging.WARNING)
    print(*measure(int(_NUM_INDICES.value[0])))
    return
  timing.print_machine()
  peaks = []
  for number in _NUM_INDICES.value:
    said = subprocess.run(
        [sys.executable, *_SELF, *sys.argv[1:], f'--num_indices={number}'],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    before, peak, seconds = map(float, said.split())
    peaks.append(peak)
    timing.print_row(
        f'{number} indices',
        chunk=_CHUNK.value,
        batch_size=_BATCH_SIZE.value,
        before_mib=before,
        peak_mib=peak,
        peak_of_first=peak / peaks[0],
        seconds=seconds,
    )


if __name__ == '__main__':
  app.run(main)
