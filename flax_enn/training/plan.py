"""A config made into objects, and checked against them before any compile."""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import optax

from flax_enn import build, data, sharding
from flax_enn.core import Batch, EpistemicNetwork, Indexer
from flax_enn.evaluation import Evaluator
from flax_enn.indexers import EnsembleIndexer
from flax_enn.losses import Objective
from flax_enn.training import config as config_lib
from flax_enn.training import optimizer
from flax_enn.training.objectives import create_objectives
from flax_enn.training.state import TrainState, abstract_state, init_state
from flax_enn.training.step import train_step

# Fields of `config.dataset` that are the loader's and not the data set's.
LOADER_FIELDS = ('workers', 'read_ahead')


@dataclasses.dataclass(frozen=True)
class Plan:
  """Everything a config names, built.

  Attributes:
    config: the config.
    mesh: of devices.
    dataset: from `config.dataset`.
    network: from `config.network`.
    objectives: by name, from `config.objectives`.
    schedule: learning rate of each step.
    tx: optimizer.
  """

  config: ml_collections.ConfigDict
  mesh: Mesh
  dataset: data.Dataset
  network: EpistemicNetwork
  objectives: Mapping[str, Objective]
  schedule: optax.Schedule
  tx: optax.GradientTransformation

  @classmethod
  def from_config(
      cls,
      config: ml_collections.ConfigDict,
      devices: list[jax.Device] | None = None,
  ) -> 'Plan':
    """Builds what `config` names and checks that the parts fit together.

    Args:
      config: from a file in `configs/`.
      devices: to run on; all by default.

    Raises:
      ValueError: what was found, what was expected, and the field to change.
    """
    config_lib.check(config)
    mesh = sharding.create_mesh(config.mesh, devices)
    section = {
        k: v
        for k, v in config.dataset.to_dict().items()
        if k not in LOADER_FIELDS
    }
    network = build.build(config.network, 'flax_enn.networks', 'config.network')
    if not isinstance(network, EpistemicNetwork):
      raise ValueError(
          f'config.network.name is {config.network.name!r}, which has no'
          ' indexer: a base or a prior is no epistemic network. Wrap it, as'
          " in dict(name='deterministic', base=…)"
      )
    check_mesh(config, mesh, network.indexer)
    plan = cls(
        config=config,
        mesh=mesh,
        dataset=build.build(section, 'flax_enn.data', 'config.dataset'),
        network=network,
        objectives=create_objectives(config, network.indexer),
        tx=optimizer.create_optimizer(config.optimizer, config.num_steps),
        schedule=optimizer.create_schedule(config.optimizer, config.num_steps),
    )
    # Finds out what is wrong with the data, before a network is fitted to it.
    plan.train_batches()
    plan.eval_batches()
    plan.check_shapes()
    plan.check_temperatures()
    return plan

  @property
  def split(self) -> str:
    """What the run is judged by."""
    # Tuning is judged on a part of the training split, never on the test split.
    return 'validation' if self.config.dataset.get('holdout') else 'test'

  def train_batches(self, start: int = 0) -> Iterator[Batch]:
    """This host's share of the training batches after the first `start`."""
    return data.train_batches(
        self.dataset, seed=self.config.seed, start=start, **self._loader
    )

  def eval_batches(self, start: int = 0) -> Iterator[Batch]:
    """The same of the split that the run is judged by."""
    return data.eval_batches(
        self.dataset, self.split, start=start, **self._loader
    )

  @property
  def _loader(self) -> dict[str, int]:
    """What the loader takes beside the data set, on this host."""
    fields = self.config.dataset
    host, hosts = sharding.batch_share(self.mesh)
    return {
        **{k: fields[k] for k in LOADER_FIELDS if k in fields},
        'batch_size': self.config.batch_size,
        'host': host,
        'hosts': hosts,
    }

  def extent(self) -> tuple[Any, ...]:
    """Shape and classes of the data, and how many there are of them."""
    sizes = [len(self.dataset.source(s)) for s in ('train', self.split)]
    return self.dataset.shape, self.dataset.classes, *sizes

  @property
  def example(self) -> np.ndarray:
    """`[1, ...]` inputs of the data set's shape, to initialise with."""
    return np.zeros((1, *self.dataset.shape), np.float32)

  @functools.cached_property
  def abstract_state(self) -> TrainState:
    """The state's shapes, dtypes and shardings, traced once."""
    return abstract_state(self.network, self.tx, self.example, self.mesh)

  def abstract_batch(self) -> Batch:
    """The shapes, dtypes and shardings of a global batch."""
    size, dataset = (self.config.batch_size,), self.dataset
    where = sharding.batch_sharding(self.mesh)
    of = functools.partial(jax.ShapeDtypeStruct, sharding=where)
    labels = (
        of(size, jnp.int32)
        if dataset.task == 'classification'
        else of((*size, dataset.classes), jnp.float32)
    )
    return Batch(
        x=of((*size, *dataset.shape), jnp.float32),
        y=labels,
        weight=of(size, jnp.float32),
        id=of(size, jnp.int32),
        mask=of(size, jnp.float32),
    )

  def train_step(self) -> Any:
    """The step as a function of state and batch alone, not yet compiled."""
    return functools.partial(
        train_step,
        network=self.network,
        objectives=self.objectives,
        tx=self.tx,
        num_indices=self.config.num_indices,
        accumulation=self.config.accumulation,
    )

  def jit_train_step(self) -> Any:
    """The step as it is compiled; it uses up the state that it is given."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
    return jax.jit(
        self.train_step(), donate_argnums=0, out_shardings=(shardings, None)
    )

  def evaluator(self) -> Evaluator:
    """What judges the states of the run."""
    fields = self.config.eval
    return Evaluator(
        network=self.network,
        dataset=self.dataset,
        num_indices=fields.num_indices,
        tau=fields.tau,
        chunk=fields.chunk,
        mesh=self.mesh,
        temperature=fields.temperature,
        base_temperature=fields.base_temperature,
    )

  def check_temperatures(self) -> None:
    """Checks that only logits are divided by a temperature."""
    if self.dataset.task == 'classification':
      return
    for field in ('temperature', 'base_temperature'):
      if (value := self.config.eval[field]) != 1:
        raise ValueError(
            f'config.eval.{field} is {value}, but the data set'
            f' {self.config.dataset.name!r} is a regression, which has no'
            ' logits to divide; set it to 1.0'
        )

  def check_shapes(self) -> None:
    """Traces one step with abstract values, which costs no memory.

    Raises:
      ValueError: the network's outputs are not the data set's classes, or any
        part does not fit another.
    """
    size, dataset = self.config.batch_size, self.dataset
    batch = self.abstract_batch()

    def predict(batch):
      state = init_state(self.network, self.tx, 0, self.example)
      index = self.network.indexer.sample(state.key, 1)[0]
      return self.network.apply(state.variables, batch.x, index).preds

    def step(batch):
      state = init_state(self.network, self.tx, 0, self.example)
      return self.train_step()(state, batch)

    try:
      preds = jax.eval_shape(predict, batch)
    except Exception as e:  # jax, flax and networks each have their own
      raise ValueError(
          f'config.network cannot take inputs {list(dataset.shape)} of the data'
          f' set {self.config.dataset.name!r}, or its parts do not fit each'
          f' other: {e}'
      ) from e
    if preds.shape != (size, dataset.classes):
      raise ValueError(
          f'the network {self.config.network.name!r} gives outputs'
          f' {list(preds.shape[1:])} for each example, but the data set'
          f' {self.config.dataset.name!r} has {dataset.classes} classes; set'
          ' `classes` in config.network (and in its base or member) to'
          f' {dataset.classes}'
      )
    jax.eval_shape(step, batch)


def check_mesh(
    config: ml_collections.ConfigDict, mesh: Mesh, indexer: Indexer
) -> None:
  """Checks that everything that is split over the mesh divides.

  Raises:
    ValueError: with the field to change.
  """
  devices, indices = mesh.size, mesh.shape[sharding.INDEX_AXIS]
  if config.batch_size % devices:
    raise ValueError(
        f'batch_size {config.batch_size} is not divisible by the {devices}'
        f' devices of config.mesh {dict(mesh.shape)}; set config.batch_size to'
        f' a multiple of {devices}'
    )
  if config.batch_size % (devices * config.accumulation):
    raise ValueError(
        f'config.accumulation is {config.accumulation}, but each of the'
        f' {devices} devices has {config.batch_size // devices} examples of a'
        ' batch; set config.accumulation to a divisor of that'
    )
  _, parts = sharding.batch_share(mesh)
  if config.batch_size % (2 * parts):
    raise ValueError(
        f'batch_size {config.batch_size} is not divisible by 2 for each of'
        f' {parts} hosts, which splits a dyadic pair; set config.batch_size to'
        f' a multiple of {2 * parts}'
    )
  split = {
      'num_indices': config.num_indices,
      'eval.num_indices': config.eval.num_indices,
      'eval.chunk': config.eval.chunk,
  }
  if isinstance(indexer, EnsembleIndexer):
    split['network.size'] = indexer.size
  for field, value in split.items():
    if value % indices:
      raise ValueError(
          f'config.{field} is {value}, which the index axis of config.mesh'
          f' ({indices}) does not divide; set it to a multiple of {indices}, or'
          ' change config.mesh.index'
      )
