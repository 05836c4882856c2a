"""The head of an epinet in the form of the paper and of enn, as a reference."""

from typing import Any

import jax
import jax.numpy as jnp


def plain_head(params: Any, phi: jax.Array, z: jax.Array) -> jax.Array:
  """The head of the paper at one index, `[B, C]`."""
  first, out = params['layer_0'], params['out']
  kernel = jnp.concatenate([first['z']['kernel'], first['h']['kernel']])
  zs = jnp.broadcast_to(z, (len(phi), len(z)))
  h = jnp.concatenate([zs, phi], 1) @ kernel + first['h']['bias']
  flat = out['kernel'].reshape(len(out['kernel']), -1)
  outputs = jax.nn.relu(h) @ flat + out['bias'].reshape(-1)
  return outputs.reshape(len(phi), -1, len(z)) @ z
