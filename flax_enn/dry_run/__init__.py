"""A run without its devices: compiles both steps and says what they cost."""

import dataclasses
import re
import time
from typing import Any

from absl import logging
import jax
import ml_collections

from flax_enn import sharding
from flax_enn.data_section import create_dataset
from flax_enn.dry_run import cost_analysis
from flax_enn.dry_run.collectives import find_collectives
from flax_enn.dry_run.program import Program
from flax_enn.dry_run.report import DryRunReport, MemoryUse, StepCost
from flax_enn.dry_run.topology import Topology
from flax_enn.training import checks
from flax_enn.training.trainer import Trainer

__all__ = ['DryRunReport', 'dry_run']


def dry_run(config: ml_collections.ConfigDict, topology: str) -> DryRunReport:
  """Compiles a run's training and evaluation steps for devices that are absent.

  Allocates nothing of the run's size and reads no data, but where their shapes
  are known from their files alone. To be called before JAX is used, which it
  keeps to the CPU.

  Args:
    config: from a file in `configs/`.
    topology: such as `v5e:16x16`; see `Topology.parse`.

  Raises:
    ValueError: the config does not fit these devices, or there are none such.
    ModuleNotFoundError: libtpu is not installed.
  """
  target = Topology.parse(topology)
  devices = target.devices()
  trainer = _trainer(config, devices)
  checks.check(trainer)
  mesh = dict(trainer.mesh.shape)
  logging.info('%d devices of %s, mesh %s', len(devices), target, mesh)
  with trainer.use_mesh():
    steps = (_training(trainer, target), _evaluation(trainer, target))
  return DryRunReport(target, mesh, config.batch_size, steps)


def _trainer(
    config: ml_collections.ConfigDict, devices: list[jax.Device]
) -> Trainer:
  try:
    return Trainer.from_config(config, devices)
  except ValueError as e:
    if not config.get('dataset') or not create_dataset(config.dataset).learns:
      raise
    raise ValueError(
        f'{e}\nA dry run reads no data, but the shapes of the data set'
        f' {config.dataset.name!r} are known from its files alone: have them'
        ' here, or name a data set that knows its shapes, such as fake'
    ) from e


def _training(trainer: Trainer, target: Topology) -> StepCost:
  """The step as the loop compiles it."""
  # As it is written: what a device does by a `shard_map` would count once.
  alone = dataclasses.replace(
      trainer, mesh=sharding.create_mesh({}, [trainer.mesh.devices.flat[0]])
  )
  with alone.use_mesh():
    whole = Program(_lowered(alone, target).as_text('hlo'))
  return dataclasses.replace(
      _cost('training', _lowered(trainer, target), trainer, target),
      ideal_flops=sum(cost_analysis.flops(whole).values()) / trainer.mesh.size,
  )


def _lowered(trainer: Trainer, target: Topology) -> Any:
  # The number of examples, which is not known here, changes no cost.
  traced = trainer.jit_step(num_examples=1).trace(
      trainer.abstract_state, trainer.abstract_batch()
  )
  return traced.lower(lowering_platforms=(target.platform,))


def _evaluation(trainer: Trainer, target: Topology) -> StepCost:
  """The step as the evaluator compiles it."""
  scorer = trainer.evaluations[0].scorer
  sample = trainer.model.network.indexer.sample
  drawn = jax.eval_shape(
      lambda: sample(jax.random.key(0), scorer.num_indices)
  )
  indices = jax.ShapeDtypeStruct(
      drawn.shape, drawn.dtype, sharding=sharding.replicated(trainer.mesh)
  )
  traced = scorer.step.trace(
      trainer.abstract_state.variables, indices, trainer.abstract_batch()
  )
  lowered = traced.lower(lowering_platforms=(target.platform,))
  return _cost('evaluation', lowered, trainer, target)


def _cost(
    name: str, lowered: Any, trainer: Trainer, target: Topology
) -> StepCost:
  logging.info('Compiling the %s step for %s', name, target)
  start = time.monotonic()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    if 'RESOURCE_EXHAUSTED' not in str(e):
      raise
    return StepCost(name, oom_message=str(e).partition(': ')[2].splitlines()[0])
  logging.info('Compiled after %.1f s', time.monotonic() - start)
  sizes = compiled.memory_analysis()
  program = Program(compiled.as_text())
  modules = set().union(*trainer.abstract_state.variables.values())
  by_module: dict[str, int] = {}
  for scope, count in cost_analysis.flops(program).items():
    module = module_of(scope, modules)
    by_module[module] = by_module.get(module, 0) + count
  return StepCost(
      name,
      memory=MemoryUse(
          arguments=sizes.argument_size_in_bytes,
          outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
          temporaries=sizes.temp_size_in_bytes,
          code=sizes.generated_code_size_in_bytes,
      ),
      flops=dict(sorted(by_module.items(), key=lambda item: -item[1])),
      bytes_accessed=cost_analysis.bytes_accessed(program),
      collectives=tuple(find_collectives(program, trainer.mesh)),
      unknown_trip_counts=program.unknown_trip_counts,
  )


def module_of(scope: str, modules: set[str]) -> str:
  """The module of the network in which a line of a program was written.

  Args:
    scope: such as `jit(train_step)/transpose(jvp(Epinet))/head/out/dot_general`
    modules: names of the network's own modules.

  Returns:
    One of them (`'head'`), or `'rest'`.
  """
  for part in scope.split('/'):
    name = re.sub(r'^(\w+\()*|\)*$', '', part)
    if name in modules:
      return name
  return 'rest'
