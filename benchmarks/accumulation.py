"""A batch in microbatches beside the whole of it: time and memory.

  python -m benchmarks.accumulation --parts=2,4

The memory is that of a step with its state and batch, by the compiler.
"""

from typing import Any

from absl import app, flags

from benchmarks import timing
from configs import cifar10_resnet, digits_ensemble

_PARTS = flags.DEFINE_list('parts', ['2', '4'], 'Microbatches.')
_ONLY = flags.DEFINE_list('only', ['convnet', 'resnet18'], 'Which.')


def recipe(name: str, parts: int) -> Any:
  """One network with convolutions."""
  if name == 'resnet18':
    config, size, shape = cifar10_resnet.get_config('18'), 128, (32, 32, 3)
  else:
    config, size, shape = digits_ensemble.get_config(), 256, (8, 8, 1)
    config.network = {
        'name': 'deterministic', 'base': config.network.member,
    }  # fmt: skip
    config.num_indices = None
    del config.objectives.data.noise
  config.accumulation = parts
  return timing.fake(config, size, shape, 10)


def main(argv: list[str]) -> None:
  """Prints a row for each network."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for name in _ONLY.value:
    steps = {
        n: timing.Training(recipe(name, n))
        for n in (1, *map(int, _PARTS.value))
    }
    times = timing.side_by_side({str(n): step for n, step in steps.items()})
    whole = steps.pop(1)
    values = {}
    for n, step in steps.items():
      values[f'time_{n}'] = times[str(n)] / times['1']
      values[f'memory_{n}'] = step.memory / whole.memory
    timing.print_row(
        f'{name}, batch {whole.trainer.config.batch_size}',
        whole_ms=1e3 * times['1'],
        whole_mib=whole.memory / 2**20,
        **values,
    )


if __name__ == '__main__':
  app.run(main)
