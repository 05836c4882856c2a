"""Batches of data sets in memory: one example at a time, all at once, a step.

  python -m benchmarks.loader

Two moons and digits (made where they are not there) in batches of 64, and
made-up images in the augmentation of CIFAR in batches of 128. `grain` reads as
for a data set in files, `taken` from arrays; `order` is what shuffling adds to
`taken`, in a thread of its own; `placed` has the batch on the device.
"""

from collections.abc import Iterator
import dataclasses
import os
import tempfile
from typing import Any

from absl import app
import numpy as np

from benchmarks import timing
from configs import cifar10_resnet, digits_epinet, two_moons_epinet
from flax_enn.data import ArraySource
from flax_enn.data.order import epoch_order
from flax_enn.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Slow:
  """A source that is not known to lie in arrays."""

  examples: ArraySource

  def __len__(self) -> int:
    return len(self.examples)

  def __getitem__(self, index: int) -> Any:
    return self.examples[index]


def batches(trainer: Any, slow: bool) -> Iterator[Any]:
  """The training batches on the host."""
  dataset = trainer.dataset
  if slow:
    examples = Slow(dataset.load('train'))
    name = type(dataset).__name__
    other = type(name, (type(dataset),), {'load': lambda *_: examples})
    fields = (f.name for f in dataclasses.fields(dataset))
    dataset = other(**{name: getattr(dataset, name) for name in fields})
  config = trainer.config
  return dataclasses.replace(trainer.loader, read_ahead=0).train_batches(
      dataset, trainer.model.spec, batch_size=config.batch_size, seed=0
  )


def row(name: str, config: Any) -> None:
  """Measures one recipe."""
  trainer = Trainer.from_config(config)
  n, size = trainer.num_examples, config.batch_size
  grain, taken = batches(trainer, True), batches(trainer, False)
  epochs = iter(range(10**9))
  with trainer.use_mesh():
    placed = trainer.placed_batches()
    times = timing.side_by_side({
        'grain': lambda: next(grain).x,
        'taken': lambda: next(taken).x,
        'order': lambda: epoch_order(n, next(epochs)),
        'placed': lambda: next(placed).x,
    })
  times['order'] *= size / n
  values = {f'{k}_ms': 1e3 * v for k, v in times.items()}
  timing.print_row(name, **values)


def main(argv: list[str]) -> None:
  """Prints a row for each recipe."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for recipe in (two_moons_epinet, digits_epinet):
    config = recipe.get_config()
    config.batch_size = 64
    row(recipe.__name__.removeprefix('configs.'), config)
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'images.npz')
    rng, splits = np.random.default_rng(0), {'train': 50_000, 'test': 100}
    x = {f'x_{k}': rng.bytes(n * 32 * 32 * 3) for k, n in splits.items()}
    x = {k: np.frombuffer(v, np.uint8) for k, v in x.items()}
    x = {k: v.reshape(-1, 32, 32, 3) for k, v in x.items()}
    y = {f'y_{k}': np.arange(n) % 10 for k, n in splits.items()}
    np.savez(path, **x, **y)
    config = cifar10_resnet.get_config('18')
    config.dataset = {'name': 'arrays', 'path': path, 'standardize': True}
    row('images, not augmented', config)
    config.dataset.update(padding=4, flip=True)
    row('images, moved and flipped', config)


if __name__ == '__main__':
  app.run(main)
