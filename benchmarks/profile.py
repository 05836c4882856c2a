"""Where the time goes: shares of the operations of a program, by module.

  python -m benchmarks.profile --batch_size=8

One line for each program: a step of two moons as the loop does it, one of ten
convnets on digits, the evaluation of the ImageNet epinet at 1,000 indices, and
its logits alone.
A share is of all time in which an operation ran, by XLA's own trace; those that
were fused count as the last of them. What is in no module has the name of its
operation in JAX, as `(exp)`.
"""

import collections
from collections.abc import Callable
import functools
import glob
import gzip
import json
import os
import re
import tempfile
from typing import Any

# What XLA has compiled says which operation belongs to which module.
os.environ['DUMP'] = tempfile.mkdtemp()
os.environ['XLA_FLAGS'] = ' '.join([
    os.environ.get('XLA_FLAGS', ''),
    f'--xla_dump_to={os.environ["DUMP"]} --xla_dump_hlo_as_text',
])
os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'

from absl import app, flags
import jax

from benchmarks import timing
from benchmarks.heads import sum_of_logits
from configs import digits_ensemble, imagenet_epinet, two_moons_epinet
from flax_enn.evaluation.scorer import Scorer

_BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Images of ImageNet.')
_CHUNK = flags.DEFINE_integer('chunk', 40, 'Indices at once.')
_NUM_INDICES = flags.DEFINE_integer('num_indices', 1000, 'N.')
_DEPTH = flags.DEFINE_integer('depth', 1, 'Of the modules that are told apart.')


def shares(fn: Callable[[], Any], calls: int) -> dict[str, float]:
  """Module -> its share of the time of the operations of some calls."""
  jax.block_until_ready(fn())
  with tempfile.TemporaryDirectory() as folder:
    with jax.profiler.trace(folder):
      for _ in range(calls):
        jax.block_until_ready(fn())
    (path,) = glob.glob(f'{folder}/**/*.trace.json.gz', recursive=True)
    with gzip.open(path) as file:
      events = json.load(file)['traceEvents']
  total = collections.Counter()
  for event in events:
    op = event.get('args', {}).get('hlo_op')
    if op and event.get('ph') == 'X':
      total[_module(event['args']['hlo_module'], op)] += event['dur']
  whole = total.total()
  found = {k: v / whole for k, v in total.most_common() if v > 0.02 * whole}
  return {**found, 'the rest': 1 - sum(found.values())}


def _module(program: str, op: str) -> str:
  """The module that an operation of a program belongs to."""
  path = _op_names(program).get(op, '')
  parts = [
      part
      for part in path.split('/')[:-1]
      if re.fullmatch(r'[a-z]\w*', part)
      and part not in ('while', 'body', 'cond', 'closed_call', 'shard_map')
  ]
  backward = ' backward' if 'transpose(' in path else ''
  alone = f'({path.split("/")[-1] or op})'
  return ('/'.join(parts[: _DEPTH.value]) or alone) + backward


@functools.cache
def _op_names(program: str) -> dict[str, str]:
  """Operation -> the path of the JAX code that it is from."""
  found = {}
  for path in glob.glob(f'{os.environ["DUMP"]}/*.{program}.*after_opt*.txt'):
    with open(path) as file:
      text = file.read()
    found |= re.findall(
        r'^\s*(?:ROOT )?%?([\w.-]+) = .*metadata=\{.*?op_name="([^"]*)"',
        text,
        re.M,
    )
  return found


def two_moons() -> Callable[[], Any]:
  """Steps of a run, several in a call."""
  config = two_moons_epinet.get_config()
  trainer = timing.Training(config).trainer
  with trainer.use_mesh():
    stepper, state = trainer.stepper(), [trainer.create_state()]

  def steps() -> Any:
    with trainer.use_mesh():
      state[0], logs, _ = stepper(state[0], 64)
    return logs

  for _ in range(50):  # it finds out how many steps to do in a call
    steps()
  return steps


def ensemble() -> Callable[[], Any]:
  """The step of ten convnets."""
  config = digits_ensemble.get_config()
  config.network.size = 10
  return timing.Training(timing.fake(config, 64, (8, 8, 1), 10))


def imagenet() -> tuple[Any, Any, Any, Any]:
  """Model, variables, indices and a batch of the epinet of ImageNet."""
  config, size = imagenet_epinet.get_config('50'), _BATCH_SIZE.value
  training = timing.Training(timing.fake(config, size, (224, 224, 3), 1000))
  model, key = training.trainer.model, jax.random.key(0)
  indices = model.network.indexer.sample(key, _NUM_INDICES.value)
  return model, training.variables, indices, training.batch


def evaluation() -> Callable[[], Any]:
  """Statistics of that epinet and of its base."""
  model, variables, indices, batch = imagenet()
  scorer = Scorer(
      model=model,
      batch_size=len(batch.y),
      num_indices=len(indices),
      chunk=_CHUNK.value,
  )
  return functools.partial(scorer.step, variables, indices, batch)


def logits() -> Callable[[], Any]:
  """The sum of its logits over all indices, with the base's one pass."""
  model, variables, indices, batch = imagenet()

  total = jax.jit(
      functools.partial(sum_of_logits, model, chunk=_CHUNK.value)
  )
  return functools.partial(total, variables, batch.x, indices)


def main(argv: list[str]) -> None:
  """Prints a row for each program."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  rows = (two_moons, 20), (ensemble, 20), (evaluation, 2), (logits, 2)
  for build, calls in rows:
    timing.print_row(build.__name__, **shares(build(), calls))


if __name__ == '__main__':
  app.run(main)
