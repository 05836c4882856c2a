"""Times functions side by side, and prints what was found.

Rounds are interleaved, so that other work on the machine hits all functions
alike, and each function is its fastest round: noise only adds.
"""

from collections.abc import Callable, Mapping
import json
import os
import platform
import time
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import ml_collections

from flax_enn import sharding
from flax_enn.core import Batch
from flax_enn.training.trainer import Trainer

_JSON = flags.DEFINE_bool('json', False, 'Print a JSON object for each row.')


def side_by_side(
    functions: Mapping[str, Callable[[], Any]],
    *,
    rounds: int = 5,
    seconds: float = 0.3,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
  """Seconds of one call of each function.

  Args:
    functions: each starts the same work and returns its arrays, not waiting.
    rounds: in which every function is timed once.
    seconds: that a function runs for in each round, at least one call.
    clock: `time.process_time` for time of the processor, of all threads.
  """
  calls = {}
  for name, fn in functions.items():
    jax.block_until_ready(fn())  # compiles
    start = time.perf_counter()
    jax.block_until_ready(fn())
    calls[name] = max(1, int(seconds / (time.perf_counter() - start)))
  fastest = dict.fromkeys(functions, float('inf'))
  for _ in range(rounds):
    for name, fn in functions.items():
      start = clock()
      # The last results are ready after all others: a device works in order.
      jax.block_until_ready([fn() for _ in range(calls[name])][-1])
      took = (clock() - start) / calls[name]
      fastest[name] = min(fastest[name], took)
  return fastest


def print_row(name: str, **values: Any) -> None:
  """Prints one row: a line of text, or of JSON where `--json` is given."""
  if _JSON.value:
    print(json.dumps({'name': name, **values}), flush=True)
    return
  cells = (f'{k} {_text(v)}' for k, v in values.items())
  print(f'{name:<44} ' + '  '.join(cells), flush=True)


def _text(value: Any) -> str:
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def print_machine() -> None:
  """Prints where the figures are from."""
  device = jax.devices()[0]
  print_row(
      'machine',
      device=device.device_kind,
      devices=jax.device_count(),
      cores=os.cpu_count(),
      load=os.getloadavg()[0],
      python=platform.python_version(),
      jax=jax.__version__,
  )


def matmul_peak(dtype: Any = jnp.bfloat16, size: int = 8192) -> float:
  """FLOP/s of a product of two square random matrices, as measured here."""
  if jax.default_backend() == 'cpu':
    dtype, size = jnp.float32, 2048
  keys = jax.random.split(jax.random.key(0))
  a, b = (jax.random.normal(k, (size, size), dtype) for k in keys)
  product = jax.jit(lambda a, b: a @ b)
  took = side_by_side({'matmul': lambda: product(a, b)})['matmul']
  return 2 * size**3 / took


class Training:
  """The training step of a config on one random batch that stays on the device.

  Attributes:
    trainer: of the config.
    batch: on the device.
  """

  def __init__(self, config: ml_collections.ConfigDict):
    """Draws the first state, and a batch; compiles nothing yet."""
    self.trainer = Trainer.from_config(config)
    with self.trainer.use_mesh():
      self._state = self.trainer.create_state()
      batch = next(iter(self.trainer.train_batches()))
      self.batch: Batch = sharding.make_global_batch(
          batch, self.trainer.batch_sharding
      )
      self._step = self.trainer.jit_step()

  @property
  def variables(self) -> Any:
    """A copy of the network's variables: the step gives its own away."""
    return jax.tree.map(jnp.copy, self._state.variables)

  def __call__(self) -> Any:
    with self.trainer.use_mesh():
      self._state, logs = self._step(self._state, self.batch)
    return logs

  @property
  def memory(self) -> int:
    """Bytes of a device that the step uses: the state, the batch, the rest."""
    with self.trainer.use_mesh():
      compiled = self._step.lower(self._state, self.batch).compile()
    found = compiled.memory_analysis()
    return (
        found.argument_size_in_bytes
        + found.output_size_in_bytes
        + found.temp_size_in_bytes
        - found.alias_size_in_bytes
    )

  @property
  def flops(self) -> float:
    """FLOPs of the step, by XLA's analysis of the program for one CPU.

    That of a program for GPUs does not look into the convolutions of cuDNN.
    """
    cpu = jax.devices('cpu')[:1]
    trainer = Trainer.from_config(self.trainer.config, cpu)
    with trainer.use_mesh():
      step = trainer.jit_step()
      lowered = step.lower(trainer.abstract_state, trainer.abstract_batch())
    return lowered.cost_analysis()['flops']


def fake(
    config: ml_collections.ConfigDict,
    batch_size: int,
    shape: tuple[int, ...],
    classes: int,
) -> ml_collections.ConfigDict:
  """A recipe on random data, starting from nothing."""
  config.update(batch_size=batch_size, num_steps=1000)
  config.init = None
  config.dataset = {
      'name': 'fake',
      'shape': shape,
      'classes': classes,
      'n_train': batch_size,
      'holdout': 0.0,
      'workers': 0,
      'read_ahead': 1,
  }
  config.optimizer.schedule = {'name': 'constant', 'warmup_steps': 0}
  return config
