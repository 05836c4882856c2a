"""Trainer: a model with all that trains and evaluates it, from a config."""

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import optax

from flax_enn import annotations, build, data, optimizer, sharding
from flax_enn import config as config_lib
from flax_enn.core import Batch
from flax_enn.data_section import create_dataset, create_loader, located_batches
from flax_enn.evaluation import Evaluation, create_evaluations
from flax_enn.losses import Objective
from flax_enn.model import Model
from flax_enn.training.objectives import create_objectives
from flax_enn.training.state import (
    TrainState,
    abstract_state,
    create_train_state,
)
from flax_enn.training.step import train_step
from flax_enn.training.stepper import (
    MultiStepper,
    SingleStepper,
    Stepper,
    multi_step,
)

# Where the index has no finite support.
_NUM_INDICES = 8


@dataclasses.dataclass(frozen=True)
class Trainer:
  """Everything that a config names, built; nothing is compiled.

  Attributes:
    config: the config.
    model: that is trained.
    mesh: of devices.
    rules: what lies on which axis of it.
    dataset: from `config.dataset`.
    objectives: by name, from `config.objectives`.
    schedule: learning rate of each step.
    tx: optimizer.
  """

  config: ml_collections.ConfigDict
  model: Model
  mesh: Mesh
  rules: sharding.Rules
  dataset: data.Dataset
  objectives: Mapping[str, Objective]
  schedule: optax.Schedule
  tx: optax.GradientTransformation

  @classmethod
  def from_config(
      cls,
      config: ml_collections.ConfigDict,
      devices: list[jax.Device] | None = None,
  ) -> 'Trainer':
    """Builds what `config` names; `checks.check` says whether it fits together.

    Args:
      config: from a file in `configs/`.
      devices: to run on; all by default.

    Raises:
      ValueError: what was found, what was expected, and the field to change.
    """
    config = annotations.normalized(config)
    config_lib.check(config)
    with build.located('config.sharding'):
      rules = sharding.create_rules(config.sharding)
    dataset = create_dataset(config.dataset)
    with build.located('config.dataset'):
      spec = dataset.spec
    with build.located('config.mesh'):
      mesh = sharding.create_mesh(config.mesh, devices)
      sharding.process_shard(sharding.batch_sharding(mesh, rules))
    return cls(
        config=config,
        model=Model.from_config(config, spec),
        mesh=mesh,
        rules=rules,
        dataset=dataset,
        objectives=create_objectives(config),
        schedule=optimizer.create_schedule(config.optimizer, config.num_steps),
        tx=optimizer.create_optimizer(config.optimizer, config.num_steps),
    )

  @property
  def num_indices(self) -> int:
    """N of a training step."""
    size = self.model.network.indexer.size
    return self.config.num_indices or size or _NUM_INDICES

  @property
  def batch_sharding(self) -> sharding.NamedSharding:
    """Where the examples of a batch are."""
    return sharding.batch_sharding(self.mesh, self.rules)

  def use_mesh(self) -> Any:
    """A context in which everything is computed on the mesh."""
    return sharding.use_mesh(self.mesh, self.rules)

  @property
  def loader(self) -> data.Loader:
    """How this process reads the training data."""
    with build.located('config.dataset'):
      return create_loader(self.config.dataset, self.batch_sharding)

  def train_batches(
      self, start: int = 0, skipped: MutableMapping[int, str] | None = None
  ) -> Iterator[Batch]:
    """This process's shard of the training batches after the first `start`.

    `skipped` gets the examples that cannot be read, see `data.Loader`.
    """
    return located_batches('config.dataset', self._read(start, skipped))

  def placed_batches(
      self, start: int = 0, skipped: MutableMapping[int, str] | None = None
  ) -> data.BatchesThenBlanks[Batch]:
    """As global batches on the devices, ahead of their use; without end."""
    put = functools.partial(
        sharding.make_global_batch, where=self.batch_sharding
    )
    placed = data.prefetch(self.train_batches(start, skipped), put)
    blank = functools.partial(data.blank_batch, self.abstract_batch())
    return data.BatchesThenBlanks(placed, blank)

  def stepper(
      self, start: int = 0, skipped: MutableMapping[int, str] | None = None
  ) -> Stepper:
    """Does the steps after the first `start`.

    The devices of a single process hold a small data set themselves, and do
    several steps in a call; but XLA for CPUs computes convolutions in a loop on
    a single core.
    """
    on_cpu = self.mesh.devices.flat[0].platform == 'cpu'
    convolves = any(x.ndim > 3 for x in jax.tree.leaves(self.abstract_state))
    batches = self._read(start, skipped)
    if (
        isinstance(batches, data.Taken)
        and jax.process_count() == 1
        and not (on_cpu and convolves)
        and (examples := batches.examples()) is not None
    ):
      held = jax.device_put(examples, sharding.replicated(self.mesh))
      step = self.bound_step(self.num_examples)
      program = self._jit(multi_step(step, self.batch_sharding))
      return MultiStepper(program, held, batches.ids)
    placed = self.placed_batches(start, skipped)
    return SingleStepper(self.jit_step(), placed)

  def _read(
      self, start: int, skipped: MutableMapping[int, str] | None
  ) -> Iterator[Batch]:
    return self.loader.train_batches(
        self.dataset,
        self.model.spec,
        batch_size=self.config.batch_size,
        seed=self.config.seed,
        start=start,
        skipped=skipped,
    )

  @functools.cached_property
  def num_examples(self) -> int:
    """In the training split."""
    return len(self.loader.source(self.dataset, 'train'))

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """The state's shapes, dtypes and shardings, traced once."""
    network, x = self.model.network, self.model.dummy_input()
    return abstract_state(network, self.tx, x, self.mesh, self.rules)

  def abstract_batch(self) -> Batch:
    """The shapes, dtypes and shardings of a global batch."""
    return data.abstract_batch(
        self.model.spec, self.config.batch_size, self.batch_sharding
    )

  def create_state(self, seed: int | None = None) -> TrainState:
    """The state before the first step, of another seed where one is given."""
    network, x = self.model.network, self.model.dummy_input()
    seed = self.config.seed if seed is None else seed
    return create_train_state(network, self.tx, seed, x, self.abstract_state)

  @functools.cached_property
  def _bound_steps(self) -> dict[int, Any]:
    return {}

  def bound_step(self, num_examples: int) -> Any:
    """`train_step` as a function of state and batch alone, not yet compiled.

    It is always the same function, which JAX then traces once.
    """
    step = functools.partial(
        train_step,
        network=self.model.network,
        objectives=self.objectives,
        tx=self.tx,
        likelihood=self.model.likelihood.tempered(1.0),  # is for evaluation
        num_examples=num_examples,
        num_indices=self.num_indices,
        accumulation=self.config.accumulation,
    )
    return self._bound_steps.setdefault(num_examples, step)

  def jit_step(self, num_examples: int | None = None) -> Any:
    """`bound_step` as it is compiled; it donates the state that it is given.

    `num_examples` are those in the training split; None asks the data set.
    """
    n = self.num_examples if num_examples is None else num_examples
    return self._jit(self.bound_step(n))

  def _jit(self, step: Any) -> Any:
    shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))

  @functools.cached_property
  def evaluations(self) -> Sequence[Evaluation]:
    """The run's own evaluation, and those of `config.evals`."""
    return create_evaluations(
        self.config, self.model, self.dataset, self.mesh, self.rules
    )
