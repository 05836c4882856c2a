"""What a device of eight does of a step, by the compiler: nothing runs.

  python -m benchmarks.sharded

Of the training and the evaluation step of each config on each mesh: `share` is
a device's operations beside an eighth of the same step's on one device (1 is
even; what all devices repeat is above it), `memory` what it holds beside what
one device would hold, `sent` the MiB that it sends to others.
"""

from absl import app, flags, logging
import jax

from benchmarks import timing
from flax_enn.dry_run import dry_run
from flax_enn.training import load_config

_CONFIGS = flags.DEFINE_multi_string(
    'config',
    [
        'configs/digits_ensemble.py',
        'configs/digits_epinet.py:joint',
        'configs/cifar10_epinet.py',
        'configs/imagenet_epinet.py:smoke',
    ],
    'Config file, with a variant after a colon; may be given several times.',
)
_DEVICES = flags.DEFINE_integer('devices', 8, 'How many are emulated.')
MESHES = ({}, {'index': 2}, {'fsdp': 2})


def main(argv: list[str]) -> None:
  """Prints a row for each step on each mesh."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  logging.set_verbosity(logging.WARNING)
  number = _DEVICES.value
  jax.config.update('jax_platforms', 'cpu')
  jax.config.update('jax_num_cpu_devices', number)
  timing.print_machine()  # from here on there are so many
  for path in _CONFIGS.value:
    config = load_config(path)
    if config.num_indices:
      config.num_indices += config.num_indices % 2  # two devices share them
    config.mesh.update(data=-1, index=1, fsdp=1)
    alone = dry_run(config, 'cpu:1').steps
    for mesh in MESHES:
      config.mesh.update({'index': 1, 'fsdp': 1, **mesh})
      report = dry_run(config, f'cpu:{number}')
      for whole, step in zip(alone, report.steps):
        timing.print_row(
            f'{path}, {step.name}',
            mesh='x'.join(map(str, report.mesh.values())),
            share=step.total_flops / (whole.total_flops / number),
            memory=step.memory.total / whole.memory.total,
            sent=step.bytes_sent / 2**20,
        )


if __name__ == '__main__':
  app.run(main)
