"""A run without its devices: compiles both steps and says what they cost."""

from collections.abc import Generator, Iterator
import contextlib
import dataclasses
import re
import threading
import time
from typing import Any

from absl import logging
import jax
import ml_collections

from flax_enn import sharding
from flax_enn.core import Batch
from flax_enn.training import collectives, cost, flops
from flax_enn.training.chips import Topology
from flax_enn.training.estimate import Memory, Report, Step
from flax_enn.training.hlo import Program
from flax_enn.training.plan import Plan

_EVERY = 20.0  # seconds between two lines of the log


def dry_run(config: ml_collections.ConfigDict, topology: str) -> Report:
  """Compiles a run's training and evaluation steps for devices that are absent.

  Reads no data and allocates nothing of the run's size. To be called before JAX
  is used, which it keeps to the CPU.

  Args:
    config: from a file in `configs/`.
    topology: such as `v5e:16x16`; see `Topology.parse`.

  Raises:
    ValueError: the config does not fit these devices, or there are none such.
    ModuleNotFoundError: libtpu is not installed.
  """
  where = Topology.parse(topology)
  devices = where.devices()
  plan = _Unread.from_config(config, devices)
  mesh = dict(plan.mesh.shape)
  logging.info('%d devices of %s, mesh %s', len(devices), where, mesh)
  with jax.set_mesh(plan.mesh):
    steps = (_training(plan, where), _evaluation(plan, where))
  return Report(where, mesh, config.batch_size, steps)


class _Unread(Plan):
  """A plan that does not look for the files of its data set."""

  def train_batches(self, start: int = 0) -> Iterator[Batch]:
    return iter(())

  def eval_batches(self, start: int = 0) -> Iterator[Batch]:
    return iter(())


def _training(plan: Plan, where: Topology) -> Step:
  """The step as the loop compiles it."""
  traced = plan.jit_train_step().trace(
      plan.abstract_state, plan.abstract_batch()
  )
  found = _compiled('training', traced, plan, where)
  share = flops.of_jaxpr(traced.jaxpr) / plan.mesh.size
  return dataclasses.replace(found, share=share)


def _evaluation(plan: Plan, where: Topology) -> Step:
  """The step as the evaluator compiles it."""
  sample, n = plan.network.indexer.sample, plan.config.eval.num_indices
  drawn = jax.eval_shape(lambda: sample(jax.random.key(0), n))
  indices = jax.ShapeDtypeStruct(
      drawn.shape, drawn.dtype, sharding=sharding.replicated(plan.mesh)
  )
  traced = plan.evaluator()._step.trace(
      plan.abstract_state.variables, indices, plan.abstract_batch()
  )
  return _compiled('evaluation', traced, plan, where)


def _compiled(name: str, traced: Any, plan: Plan, where: Topology) -> Step:
  with _announced(f'Compiling the {name} step for {where}'):
    lowered = traced.lower(lowering_platforms=(where.platform,))
    try:
      compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      return Step(name, refused=str(e).partition(': ')[2].splitlines()[0])
  sizes = compiled.memory_analysis()
  program = Program(compiled.as_text())
  state = plan.abstract_state
  trees = (state.params, *state.collections.values())
  modules = {module for variables in trees for module in variables}
  by_module: dict[str, int] = {}
  for scope, count in cost.operations(program).items():
    module = module_of(scope, modules)
    by_module[module] = by_module.get(module, 0) + count
  return Step(
      name,
      memory=Memory(
          arguments=sizes.argument_size_in_bytes,
          outputs=sizes.output_size_in_bytes - sizes.alias_size_in_bytes,
          temporaries=sizes.temp_size_in_bytes,
          code=sizes.generated_code_size_in_bytes,
      ),
      flops=dict(sorted(by_module.items(), key=lambda item: -item[1])),
      moved=cost.moved(program),
      collectives=tuple(collectives.of_program(program, plan.mesh)),
      unknown_loops=program.unknown_loops,
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


@contextlib.contextmanager
def _announced(what: str) -> Generator[None]:
  """Logs that something has begun, that it still goes on, and its end."""
  start, done = time.monotonic(), threading.Event()

  def repeat():
    while not done.wait(_EVERY):
      logging.info('%s: %.0f s so far', what, time.monotonic() - start)

  logging.info(what)
  thread = threading.Thread(target=repeat, daemon=True)
  thread.start()
  try:
    yield
  finally:
    done.set()
    thread.join()
  logging.info('%s: done after %.1f s', what, time.monotonic() - start)
