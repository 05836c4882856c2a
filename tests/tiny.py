"""Tiny runs: configs that train in seconds, and what they leave on disk."""

import contextlib
import hashlib
import os
from pathlib import Path
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_collections

from flax_enn.checkpoints import Checkpoints
from flax_enn.core import Batch
from flax_enn.training import default_config
from flax_enn.training.plan import Plan

ROOT = Path(__file__).parents[1]


def epinet(**fields) -> ml_collections.ConfigDict:
  """An epinet on two moons: 4 steps, a checkpoint every 2."""
  config = default_config()
  config.update(batch_size=16, num_steps=4, num_indices=2, log_every=1)
  config.dataset = {'name': 'two_moons', 'n_train': 64, 'n_test': 24}
  config.network = {
      'name': 'epinet',
      'base': {'name': 'mlp', 'hiddens': (6,), 'classes': 2},
      'classes': 2,
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
  member = {'name': 'convnet', 'channels': (2,), 'hidden': 3, 'classes': 3}
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 2,
      'prior': {**member},
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


def abstract_batch(x) -> Batch:
  """The shapes of a batch of labelled inputs."""
  size = x.shape[:1]
  integers = jax.ShapeDtypeStruct(size, jnp.int32)
  numbers = jax.ShapeDtypeStruct(size, jnp.float32)
  return Batch(x=x, y=integers, weight=numbers, id=integers, mask=numbers)


def files(folder) -> dict[str, str]:
  """Path -> digest of every file below a folder."""
  return {
      str(path.relative_to(folder)): hashlib.sha256(
          path.read_bytes()
      ).hexdigest()
      for path in sorted(Path(folder).rglob('*'))
      if path.is_file()
  }


def last_state(config, workdir) -> tuple[list[bytes], int]:
  """Every leaf of the latest checkpoint as bytes, and its step."""
  plan = Plan.from_config(config)
  with (
      jax.set_mesh(plan.mesh),
      contextlib.closing(Checkpoints(workdir)) as checkpoints,
  ):
    restored = checkpoints.restore_latest(plan.abstract_state)
  assert restored is not None
  state, step = restored
  state = state.replace(key=jax.random.key_data(state.key))
  leaves = jax.device_get(jax.tree.leaves(state))
  return [leaf.tobytes() for leaf in leaves], step


def environment() -> dict[str, str]:
  """That of a process with the repository on its path and one device."""
  xla_flags = re.sub(r'\S+device_count=\d+', '', os.environ['XLA_FLAGS'])
  return {**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': xla_flags}


def python(*args, **options) -> subprocess.Popen:
  """Starts Python in that environment."""
  return subprocess.Popen(
      [sys.executable, *map(str, args)],
      env=environment(),
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      **options,
  )
