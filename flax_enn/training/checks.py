"""Checks that the parts of a trainer fit together, before any compile."""

from collections.abc import Callable
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flax_enn import backend, build, sharding
from flax_enn.checkpoints import layout
from flax_enn.metrics import collection
from flax_enn.training.trainer import Trainer


def check(trainer: Trainer, num_examples: int = 1) -> None:
  """Checks mesh, network, objectives and evaluations against each other.

  Only traces shapes; the files of the data set are left alone.

  Args:
    trainer: that is checked.
    num_examples: of the training split, for the step to be traced only once.

  Raises:
    ValueError: what was found, what was expected, and the field to change.
  """
  _check_mesh(trainer)
  with build.code_named(trainer.model.network):
    _check_network(trainer)
    _check_memory(trainer)
    _check_objectives(trainer, num_examples)
  likelihood = trainer.model.likelihood
  with build.located(f'the metrics of {likelihood}'):
    collection(likelihood.metrics)
  if 'nll' not in likelihood.metrics:
    raise ValueError(f"{likelihood} lacks the metric 'nll', which ranks states")
  for evaluation in trainer.evaluations:
    path, scorer = _path(trainer, evaluation.name), evaluation.scorer
    if scorer.tau > scorer.batch_size:
      raise ValueError(
          f'{path}.tau is {scorer.tau}, but no batch has more than'
          f' config.batch_size ({scorer.batch_size}) inputs; set {path}.tau to'
          ' that or less'
      )
    with build.located(f'{path}.base_temperature'):
      scorer.model.likelihood.tempered(scorer.base_temperature)
    what = f'{path}: the network cannot be evaluated with {likelihood}'
    _traced(what, scorer.abstract_state, trainer.abstract_state.variables)


def check_data(trainer: Trainer) -> None:
  """Opens all data that the run reads, and raises where a split is empty."""
  config = trainer.config
  with build.located('config.dataset'):
    examples = trainer.num_examples
  if config.batch_size > examples:
    raise ValueError(
        f'config.batch_size is {config.batch_size}, but the training split of'
        f' {trainer.dataset} has {examples} examples; set it to that or less'
    )
  for evaluation in trainer.evaluations:
    path = _path(trainer, evaluation.name)
    path = 'config.dataset' if path == 'config.eval' else path
    with build.located(path):
      evaluation.loader.source(evaluation.dataset, evaluation.split)


def _path(trainer: Trainer, name: str) -> str:
  own = name not in trainer.config.evals
  return 'config.eval' if own else f'config.evals.{name}'


def _check_mesh(trainer: Trainer) -> None:
  """Checks that everything that is split over the mesh divides."""
  config, mesh = trainer.config, trainer.mesh
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
  _, count = sharding.process_shard(trainer.batch_sharding)
  if config.batch_size % (2 * count):
    raise ValueError(
        f'batch_size {config.batch_size} is not divisible by 2 for each of'
        f' {count} hosts, which splits a dyadic pair; set config.batch_size to'
        f' a multiple of {2 * count}'
    )
  split = {'config.num_indices': trainer.num_indices}
  if size := trainer.model.network.indexer.size:
    split['the size of config.network'] = size
  for evaluation in trainer.evaluations:
    path, scorer = _path(trainer, evaluation.name), evaluation.scorer
    split[f'{path}.num_indices'] = scorer.num_indices
    split[f'{path}.chunk'] = scorer.mapped_at_once
  for field, value in split.items():
    if value % indices:
      raise ValueError(
          f'{field} is {value}, which the index axis of config.mesh ({indices})'
          f' does not divide; set it to a multiple of {indices}, or change'
          ' config.mesh.index'
      )


def _check_network(trainer: Trainer) -> None:
  """Checks that the network takes the data and emits what is needed."""
  config, model = trainer.config, trainer.model
  sizes = [leaf.shape for leaf in jax.tree.leaves(model.input_spec)]
  if not sizes or any(min(shape, default=1) < 1 for shape in sizes):
    raise ValueError(
        f'config.dataset: {trainer.dataset} has inputs of the shapes'
        f' {sizes}; each must hold a number at least'
    )
  batch = trainer.abstract_batch()

  def apply(variables: Any, batch: Any) -> Any:
    index = model.network.indexer.sample(jax.random.key(0), 1)[0]
    return model.apply(variables, batch.x, index)

  target = model.likelihood.target
  form = jax.tree.map(lambda s: f'{s.dtype}{list(s.shape)}', model.input_spec)
  what = (
      f'config.network cannot take inputs {form} of the data set'
      f' {config.dataset.name!r}, or its parts do not fit each other'
  )
  state = _traced(what, lambda: trainer.abstract_state)
  output = _traced(what, jax.eval_shape, apply, state.variables, batch)
  expected = (config.batch_size, model.likelihood.outputs)
  for name, found in (('outputs', output.train), ('a base', output.base)):
    if found is None or found.shape == expected:
      continue
    has = f'the network {config.network.name!r} has {name} {list(found.shape)}'
    if not found.shape or found.shape[0] != config.batch_size:
      raise ValueError(
          f'{has} for {config.batch_size} inputs {form}: expected'
          f' {list(expected)}. It takes each of these for something else, or'
          ' mixes the batch up; images need an axis of channels [height, width,'
          ' channels]'
      )
    raise ValueError(
        f'{has}, but {model.likelihood} needs {list(expected)}. Targets y that'
        f' are {target.dtype}{list(target.shape)} mean'
        f' {type(model.likelihood).__name__}: integers are classes, floats are'
        ' targets of a regression. If that is right, set `classes` in'
        f' config.network to {expected[1]} or leave it out; if not, mend the'
        ' data or set config.likelihood'
    )
  for path, leaf in layout.flatten_with_names(state.params).items():
    if not jnp.issubdtype(leaf.dtype, jnp.floating) or not leaf.size:
      raise ValueError(
          f'config.network: the parameter {path} is {leaf.dtype}'
          f'{list(leaf.shape)}; parameters are real and have an entry at least'
      )
  # Statistics are fitted too: a posterior of a frozen base has nothing else.
  fitted = {k: v for k, v in state.collections.items() if k != 'frozen'}
  if not jax.tree.leaves((state.params, fitted)):
    raise ValueError(
        'config.network has no parameter to train: all of it is frozen'
    )


def _check_memory(trainer: Trainer) -> None:
  """Refuses what no device here can hold, by a low estimate.

  The state and, beside it, the outputs of all indices that are mapped at once.
  """
  config, mesh = trainer.config, trainer.mesh
  leaves = layout.flatten_with_names(trainer.abstract_state)
  bytes_of = {
      path: math.prod(leaf.sharding.shard_shape(leaf.shape))
      * leaf.dtype.itemsize
      for path, leaf in leaves.items()
      if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
  }
  one = config.batch_size * trainer.model.likelihood.outputs * 4 // mesh.size
  indices = {'config.num_indices': trainer.num_indices}
  for evaluation in trainer.evaluations:
    path = _path(trainer, evaluation.name)
    indices[f'{path}.chunk'] = evaluation.scorer.mapped_at_once
  field, most = max(indices.items(), key=lambda item: item[1])
  needed, has = sum(bytes_of.values()) + most * one, backend.device_memory(mesh)
  if needed > has:
    largest = max(bytes_of, key=bytes_of.__getitem__)
    raise ValueError(
        f'this takes {needed / 2**30:.1f} GiB of each device at least, which'
        f' has {has / 2**30:.1f}: {most} indices ({field}) of the batch, and'
        f' the state, whose largest array is {largest} ({bytes_of[largest]:,}'
        ' bytes). Make these smaller, or spread them (config.mesh)'
    )


def _check_objectives(trainer: Trainer, num_examples: int) -> None:
  """Checks that a step can be taken, by all objectives or by which not."""
  state, batch = trainer.abstract_state, trainer.abstract_batch()
  step = trainer.bound_step(num_examples)
  try:
    with trainer.use_mesh():  # as it will be traced
      after, _ = jax.eval_shape(step, state, batch)
  except Exception:
    for name, objective in trainer.objectives.items():
      alone = functools.partial(step, objectives={name: objective})
      what = f'config.objectives.{name}'
      _traced(what, jax.eval_shape, alone, state, batch)
    raise
  for name, values in after.collections.items():
    before = layout.flatten_with_names(state.collections[name])
    if wrong := layout.differences(layout.flatten_with_names(values), before):
      raise ValueError(
          f'config.network: the collection {name!r} has another form after a'
          f' step than before it ({wrong[0]}): statistics keep shape and dtype,'
          ' and what a network sows must not be part of its state; sow into'
          " 'intermediates'"
      )


# What JAX and Flax say -> what it means here.
_HINTS = {
    'axis spec None but output was batched': (
        '. These statistics of the network depend on the index, and they must'
        ' not: collect them before the index is mixed in, or use a norm'
        ' without statistics'
    ),
    'needs PRNG for': (
        '. A network is given the random stream `params` alone while it trains,'
        ' and none when it is evaluated: draw with make_rng("params") where'
        ' train is True'
    ),
    "unexpected keyword argument 'train'": (
        '. A network is called with (x, index, train=…), a base with (x,'
        ' train=…)'
    ),
}


def _traced(what: str, trace: Callable[..., Any], *args: Any) -> Any:
  """The shapes that `trace` returns; errors say what was tried."""
  try:
    return trace(*args)
  except Exception as e:  # jax, flax and networks each have their own
    hint = next((h for sign, h in _HINTS.items() if sign in str(e)), '')
    raise ValueError(f'{what}: {type(e).__name__}: {e}{hint}') from e
