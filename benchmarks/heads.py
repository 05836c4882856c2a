"""Logits of many indices: the library's, and a head in the form of enn."""

from typing import Any

import jax
import jax.numpy as jnp

from flax_enn.model import Model
from flax_enn.sampling import reduce_over_index


def plain_head(params: Any, phi: jax.Array, z: jax.Array) -> jax.Array:
  """The head of the paper at one index, `[B, C]`."""
  first, out = params['layer_0'], params['out']
  kernel = jnp.concatenate([first['z']['kernel'], first['h']['kernel']])
  zs = jnp.broadcast_to(z, (len(phi), len(z)))
  h = jnp.concatenate([zs, phi], 1) @ kernel + first['h']['bias']
  flat = out['kernel'].reshape(len(out['kernel']), -1)
  outputs = jax.nn.relu(h) @ flat + out['bias'].reshape(-1)
  return outputs.reshape(len(phi), -1, len(z)) @ z


def sum_of_logits(
    model: Model, variables: Any, x: jax.Array, indices: jax.Array, chunk: int
) -> jax.Array:
  """`[B, C]`: all logits are computed, and none is kept."""
  return reduce_over_index(
      lambda index: model.apply(variables, x, index).preds,
      indices,
      init=jnp.zeros((len(x), model.likelihood.outputs)),
      reduce=lambda total, preds: total + preds.sum(0),
      chunk=chunk,
  )
