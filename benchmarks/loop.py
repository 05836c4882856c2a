"""The training loop's steps beside the bare step: what Python adds to them.

  python -m benchmarks.loop

Small recipes, whose steps take less than a millisecond. `step` is a call of the
compiled step for each batch, always the same one; `placed` has a new batch for
each call; `loop` is what a run does between two logs: several steps in a call.
"""

from typing import Any

from absl import app

from benchmarks import timing
from configs import digits_epinet, regression_ensemble, two_moons_epinet

_STEPS = 64


def row(name: str, config: Any) -> None:
  """Measures one recipe."""
  training = timing.Training(config)
  trainer, fixed = training.trainer, training.batch
  with trainer.use_mesh():
    placed, stepper = trainer.placed_batches(), trainer.stepper()
    state = [trainer.create_state()]

    def step() -> Any:
      training.batch = fixed
      return [training() for _ in range(_STEPS)][-1]

    def new_batch() -> Any:
      for _ in range(_STEPS):
        training.batch = next(placed)
        logs = training()
      return logs

    def loop() -> Any:
      done = 0
      while done < _STEPS:
        state[0], logs, number = stepper(state[0], _STEPS - done)
        done += number
      return logs

    times = timing.side_by_side(
        {'step': step, 'placed': new_batch, 'loop': loop}
    )
  values = {f'{k}_ms': 1e3 * v / _STEPS for k, v in times.items()}
  timing.print_row(name, **values, loop_of_step=times['loop'] / times['step'])


def main(argv: list[str]) -> None:
  """Prints a row for each recipe."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for recipe in (two_moons_epinet, digits_epinet, regression_ensemble):
    config = recipe.get_config()
    config.init = None
    row(recipe.__name__.removeprefix('configs.'), config)


if __name__ == '__main__':
  app.run(main)
