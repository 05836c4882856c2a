"""What fingerprints add to a save: the stall of a step, and until it is safe.

  python -m benchmarks.checkpoint --mebibytes=400 --arrays=100

The state is random parameters with two moments each. `without` saves the same
arrays with no number of any of them, in turn with the real thing.
"""

import collections
import shutil
import tempfile
import time

from absl import app, flags
import jax

from benchmarks import timing
from flax_enn.checkpoints import Checkpointer, fingerprint

_MEBIBYTES = flags.DEFINE_integer('mebibytes', 400, 'Size of the state.')
_ARRAYS = flags.DEFINE_integer('arrays', 100, 'How many arrays it has.')
_ROUNDS = flags.DEFINE_integer('rounds', 20, 'How often each is saved.')


def save(state: object, step: int, folder: str) -> tuple[float, float]:
  """Seconds until `save` returns, and until the checkpoint is committed."""
  checkpointer = Checkpointer(folder, keep=1)
  start = time.perf_counter()
  checkpointer.save(state, step)
  stall = time.perf_counter() - start
  checkpointer.wait()
  committed = time.perf_counter() - start
  checkpointer.close()
  return stall, committed


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
  stalls, commits = collections.defaultdict(list), collections.defaultdict(list)
  jax.block_until_ready(start(state))  # compiles
  for step in range(1, _ROUNDS.value + 2):
    for name, way in ways.items():
      fingerprint.start = way
      folder = tempfile.mkdtemp()
      stall, committed = save(state, step, folder)
      shutil.rmtree(folder)
      if step > 1:  # the first warms up
        stalls[name].append(stall)
        commits[name].append(committed)
  fingerprint.start = start
  begun = time.perf_counter()
  jax.block_until_ready(start(state))
  alone = time.perf_counter() - begun
  least = {k: min(v) for k, v in stalls.items()}
  least_commit = {k: min(v) for k, v in commits.items()}
  timing.print_row(
      f'{_MEBIBYTES.value} MiB in {_ARRAYS.value} arrays',
      stall_ms=1e3 * least['with'],
      of_without=least['with'] / least['without'],
      committed_ms=1e3 * least_commit['with'],
      committed_of_without=least_commit['with'] / least_commit['without'],
      fingerprints_alone_ms=1e3 * alone,
  )


if __name__ == '__main__':
  app.run(main)
