"""Tiny runs: configs that train in seconds, and what they leave on disk."""

import contextlib
import functools
import hashlib
import os
from pathlib import Path
import re
import subprocess
import sys

import jax
from jax.experimental.compilation_cache import compilation_cache
import jax.numpy as jnp
import ml_collections

from flax_enn import run_folder
from flax_enn.checkpoints import Checkpointer
from flax_enn.core import Batch
from flax_enn.likelihoods import Categorical
from flax_enn.losses import Objective
from flax_enn.losses.xent import Xent
from flax_enn.training import checks, default_config, step
from flax_enn.training.trainer import Trainer

ROOT = Path(__file__).parents[1]


def epinet(**fields) -> ml_collections.ConfigDict:
  """An epinet on two moons: 4 steps, a checkpoint every 2."""
  config = default_config()
  config.update(batch_size=16, num_steps=4, num_indices=2, log_every=1)
  config.dataset = {'name': 'two_moons', 'n_train': 64, 'n_test': 24}
  config.network = {
      'name': 'epinet',
      'base': {'name': 'mlp', 'hiddens': (6,)},
      'features': ('inputs', 'hidden_0'),
      'index_dim': 3,
      'hiddens': (5,),
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.eval.update(num_indices=8, chunk=4, tau=4)
  config.checkpoint.every = 2
  return changed(config, fields)


def ensemble(**fields) -> ml_collections.ConfigDict:
  """An ensemble with batch norm, priors and bootstrapping, on fake images."""
  config = epinet()
  config.dataset = {'name': 'fake', 'shape': (4, 4, 1), 'classes': 3}
  member = {'name': 'convnet', 'channels': (2,), 'hidden': 3}
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 2,
      'priors': {'member': {'name': 'ensemble_prior', 'member': {**member}}},
  }
  config.objectives.data.noise = {'bootstrap': {'name': 'bootstrap'}}
  config.eval.update(num_indices=2, chunk=2)
  return changed(config, fields)


def changed(config, fields) -> ml_collections.ConfigDict:
  """A copy with other values; `{'a.b': 1}` sets `config.a.b`."""
  config = config.copy_and_resolve_references()
  for path, value in fields.items():
    *sections, name = path.split('.')
    section = config
    for key in sections:
      section = section[key]
    with section.ignore_type():
      section[name] = value
  return config


def built(config) -> Trainer:
  """All that a config names, checked by shapes; nothing is compiled."""
  trainer = Trainer.from_config(config)
  checks.check(trainer)
  return trainer


def untrained(config, folder, scores) -> None:
  """A run that saved what it starts with, and has more of it in each step.

  Args:
    config: of the run.
    folder: its workdir.
    scores: of each step that is saved.
  """
  trainer = built(config)
  run_folder.write_config(config, folder)
  run_folder.write_json(folder / 'model.json', trainer.model.describe())
  with (
      trainer.use_mesh(),
      contextlib.closing(Checkpointer(folder)) as checkpointer,
  ):
    state = trainer.create_state()
    for step, score in scores.items():
      checkpointer.save(state, step)
      checkpointer.score(step, score)
      params = jax.tree.map(lambda p: 1.1 * p, state.params)
      state = state.replace(params=params)


def train_step(network, tx, *, classes, num_examples, num_indices):
  """A step of cross-entropy alone, as a function of state and batch."""
  return functools.partial(
      step.train_step,
      network=network,
      objectives={'data': Objective(Xent())},
      tx=tx,
      likelihood=Categorical(classes),
      num_examples=num_examples,
      num_indices=num_indices,
  )


def abstract_batch(x) -> Batch:
  """The shapes of a batch of labelled inputs."""
  size = x.shape[:1]
  integers = jax.ShapeDtypeStruct(size, jnp.int32)
  numbers = jax.ShapeDtypeStruct(size, jnp.float32)
  return Batch(x=x, y=integers, weight=numbers, id=integers, mask=numbers)


def files(folder) -> dict[str, str]:
  """Path -> digest of every file below a folder, but for Python's caches."""
  return {
      str(path.relative_to(folder)): hashlib.sha256(
          path.read_bytes()
      ).hexdigest()
      for path in sorted(Path(folder).rglob('*'))
      if path.is_file() and path.parent.name != '__pycache__'
  }


def last_state(config, workdir) -> tuple[list[bytes], int]:
  """Every leaf of the latest checkpoint as bytes, and its step."""
  trainer = built(config)
  with (
      trainer.use_mesh(),
      contextlib.closing(Checkpointer(workdir)) as checkpointer,
  ):
    restored = checkpointer.restore_latest(trainer.abstract_state)
  assert restored is not None
  state, step = restored
  state = state.replace(key=jax.random.key_data(state.key))
  leaves = jax.device_get(jax.tree.leaves(state))
  return [leaf.tobytes() for leaf in leaves], step


@contextlib.contextmanager
def compiled_anew():
  """Reads nothing from the cache of what was compiled before.

  Its key leaves the names of scopes out: a program that is read from there has
  those of the source that it was first compiled from.
  """
  jax.config.update('jax_enable_compilation_cache', False)
  compilation_cache.reset_cache()
  try:
    yield
  finally:
    jax.config.update('jax_enable_compilation_cache', True)
    compilation_cache.reset_cache()


def environment(devices: int | None = None) -> dict[str, str]:
  """That of a process with the repository on its path and one device.

  All else is as conftest.py has it, the cache of what was compiled too.

  Args:
    devices: emulated ones, where the process does not set their number itself.
  """
  xla_flags = re.sub(r'\S+device_count=\d+', '', os.environ['XLA_FLAGS'])
  if devices is not None:
    xla_flags += f' --xla_force_host_platform_device_count={devices}'
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': xla_flags}


def python(*args, devices=None, **options) -> subprocess.Popen:
  """Starts Python in that environment."""
  return subprocess.Popen(
      [sys.executable, *map(str, args)],
      env=environment(devices),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      **options,
  )
