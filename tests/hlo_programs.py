"""Programs of XLA as the dry run reads them."""

import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.dry_run import cost_analysis
from flax_enn.dry_run.program import Program

# Data, index, fsdp of the eight devices.
MESH = {'data': 4, 'index': 2}


def mesh_of(**sizes):
  return sharding.create_mesh(sizes or MESH)


def like(*shape, spec=None, dtype=jnp.float32):
  where = None
  if spec is not None:
    where = jax.sharding.NamedSharding(mesh_of(), spec)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=where)


def compiled(fn, *args):
  """A program as the dry run reads it, and what XLA itself says it costs."""
  done = jax.jit(fn).lower(*args).compile()
  return Program(done.as_text()), done.cost_analysis()


def flops(program):
  return sum(cost_analysis.flops(program).values())
