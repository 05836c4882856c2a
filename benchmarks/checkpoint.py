"""What fingerprints add to a save and a restore.

  python -m benchmarks.checkpoint --mebibytes=400 --arrays=100

The state is random arrays. `stall` is how long a step waits, `committed` how
long it takes until the checkpoint is safe, `restored` to have it back. What
they are in times of is the same without a number of any array, in turn with the
real thing.
"""

import contextlib
import tempfile
import time

from absl import app, flags
import jax

from benchmarks import timing
from flax_enn.checkpoints import Checkpointer, fingerprint

_MEBIBYTES = flags.DEFINE_integer('mebibytes', 400, 'Size of the state.')
_ARRAYS = flags.DEFINE_integer('arrays', 100, 'How many arrays it has.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'How often each is saved.')


def measure(state: dict[str, jax.Array], folder: str) -> dict[str, float]:
  """Milliseconds to save a state and to restore it."""
  abstract = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
      state,
  )
  with contextlib.closing(Checkpointer(folder, keep=1)) as checkpointer:
    start = time.perf_counter()
    checkpointer.save(state, 1)
    stalled = time.perf_counter()
    checkpointer.wait()
    committed = time.perf_counter()
    jax.block_until_ready(checkpointer.restore_latest(abstract))
    restored = time.perf_counter()
  return {
      'stall': 1e3 * (stalled - start),
      'committed': 1e3 * (committed - start),
      'restored': 1e3 * (restored - committed),
  }


def main(argv: list[str]) -> None:
  """Prints the fastest of some rounds, with fingerprints and without."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  size = _MEBIBYTES.value * 2**20 // 4 // _ARRAYS.value
  draw = jax.jit(lambda key: jax.random.normal(key, (size // 256, 256)))
  state = {f'array_{i}': draw(jax.random.key(i)) for i in range(_ARRAYS.value)}
  jax.block_until_ready(state)
  start = fingerprint.start
  ways = {'with': start, 'without': lambda tree: {}}
  found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
  jax.block_until_ready(start(state))  # compiles
  for _ in range(_ROUNDS.value + 1):
    for name, way in ways.items():
      fingerprint.start = way
      with tempfile.TemporaryDirectory() as folder:
        found[name].append(measure(state, folder))
  fingerprint.start = start
  begun = time.perf_counter()
  jax.block_until_ready(start(state))
  alone = 1e3 * (time.perf_counter() - begun)
  least = {
      name: {key: min(row[key] for row in rows[1:]) for key in rows[0]}
      for name, rows in found.items()  # the first of them warms up
  }
  row = {}
  for key, value in least['with'].items():
    row[f'{key}_ms'] = value
    row[f'{key}_of_without'] = value / least['without'][key]
  timing.print_row(
      f'{_MEBIBYTES.value} MiB in {_ARRAYS.value} arrays',
      **row,
      fingerprints_alone_ms=alone,
  )


if __name__ == '__main__':
  app.run(main)
