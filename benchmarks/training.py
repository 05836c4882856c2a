"""Training steps: images a second, share of the peak, memory.

  python -m benchmarks.training --depth=50 --batch_sizes=64,128,256

Random images of 224x224 in 1,000 classes, which stay on the device: the step
alone is timed, in bfloat16, as `configs/imagenet_*.py` have it. The peak is the
product of two large matrices, measured beside it. A step of the epinet is
compared with the forward pass of its base, which is frozen or trained with it.
"""

from absl import app, flags
import jax

from benchmarks import timing
from configs import imagenet_epinet, imagenet_resnet

_DEPTH = flags.DEFINE_string('depth', '50', 'Of the ResNet.')
_SIDE = flags.DEFINE_integer('side', 224, 'Side of the images in pixels.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['64'], 'Images in a step.')


def base_row(batch_size: int, shape: tuple[int, ...], peak: float) -> None:
  """Measures the step of a ResNet."""
  config = imagenet_resnet.get_config(_DEPTH.value)
  config.network.base.bn_batch = min(128, batch_size)
  base = timing.Training(timing.fake(config, batch_size, shape, 1000))
  seconds = timing.side_by_side({'base': base})['base']
  print_row(f'ResNet-{_DEPTH.value}, batch {batch_size}', base, seconds, peak)


def epinet_row(
    batch_size: int, shape: tuple[int, ...], peak: float, frozen: bool
) -> None:
  """Measures the step of an epinet, and the forward pass of its base."""
  config = imagenet_epinet.get_config(_DEPTH.value)
  config.network.base.frozen = frozen
  epinet = timing.Training(timing.fake(config, batch_size, shape, 1000))
  variables, model = epinet.variables, epinet.trainer.model
  index = model.network.indexer.mean_index
  base = jax.jit(lambda v, x: model.apply(v, x, index).base)
  times = timing.side_by_side(
      {'step': epinet, 'base': lambda: base(variables, epinet.batch.x)}
  )
  print_row(
      f'epinet, base {"frozen" if frozen else "trained"}, batch {batch_size}',
      epinet,
      times['step'],
      peak,
      of_base_forward=times['step'] / times['base'],
  )


def print_row(
    name: str,
    training: timing.Training,
    seconds: float,
    peak: float,
    **values: float,
) -> None:
  """Prints what a step takes."""
  flops = training.flops
  batch_size = training.trainer.config.batch_size
  timing.print_row(
      name,
      images_per_second=batch_size / seconds,
      ms=1e3 * seconds,
      gflop_per_image=flops / batch_size / 1e9,
      share_of_peak=flops / seconds / peak,
      memory_gib=training.memory / 2**30,
      **values,
  )


def main(argv: list[str]) -> None:
  """Prints three rows for each batch size."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  peak = timing.matmul_peak()
  timing.print_row('matmul', tflop_per_second=peak / 1e12)
  shape = (_SIDE.value, _SIDE.value, 3)
  for batch_size in map(int, _BATCH_SIZES.value):
    base_row(batch_size, shape, peak)
    for frozen in (True, False):
      epinet_row(batch_size, shape, peak, frozen)


if __name__ == '__main__':
  app.run(main)
