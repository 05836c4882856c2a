"""What an epinet's head costs beside the form in which the paper writes it."""

import math

import jax
import jax.numpy as jnp
import pytest

from flax_enn.networks.layers import ProjectedMLP
from flax_enn.sampling import over_index
from tests.test_laws import equations

# An ImageNet head: features, hidden units, classes, index, batch, indices.
F, H, C, D, B, N = 2048, 50, 1000, 30, 128, 1000
PRODUCTS = {
    # The first layer once and its index apart; the contraction of the kernel;
    # what is left of the last layer.
    'ours': B * F * H + N * D * H + N * H * C * D + N * B * H * C,
    # A layer over the concatenation, one of C·D outputs, the contraction.
    'plain': N * B * ((F + D) * H + H * C * D + C * D),
}


def ours(params, h, indices):
  head = ProjectedMLP((H,), C)
  return over_index(lambda z: head.apply({'params': params}, h, z), indices)


def plain(params, h, indices):
  """Concatenate, emit C·D outputs for each example, contract."""
  first, last = params['layer_0'], params['out']
  kernel = jnp.concatenate([first['z']['kernel'], first['h']['kernel']])

  def at(z):
    inputs = jnp.concatenate([jnp.tile(z, (len(h), 1)), h], axis=-1)
    hidden = jax.nn.relu(inputs @ kernel + first['h']['bias'])
    out = hidden @ last['kernel'].reshape(H, -1) + last['bias'].reshape(-1)
    return out.reshape(len(h), C, D) @ z

  return over_index(at, indices)


def arguments(size, num_indices):
  """Shapes of parameters, features and indices; nothing is allocated."""
  h = jax.ShapeDtypeStruct((size, F), jnp.float32)
  indices = jax.ShapeDtypeStruct((num_indices, D), jnp.float32)
  z = jax.ShapeDtypeStruct((D,), jnp.float32)
  params = jax.eval_shape(ProjectedMLP((H,), C).init, jax.random.key(0), h, z)
  return params['params'], h, indices


def flops(fn):
  """By XLA's cost analysis of the compiled program, which has no loops."""
  compiled = jax.jit(fn).lower(*arguments(B, N)).compile()
  assert 'while' not in compiled.as_text()
  return compiled.cost_analysis()['flops']


def test_both_are_the_same_function():
  params, h, indices = jax.tree.map(
      lambda a: 0.1 * jax.random.normal(jax.random.key(a.size), a.shape),
      arguments(2, 3),
  )
  found, expected = (jax.jit(fn)(params, h, indices) for fn in (ours, plain))
  assert found.shape == (3, 2, C)
  error = jnp.abs(found - expected).max() / jnp.abs(expected).max()
  assert error < 1e-5


def test_head_costs_a_twentieth_of_the_plain_form():
  found = {'ours': flops(ours), 'plain': flops(plain)}
  print(f'\nGFLOP of the head: {found}')
  for name, products in PRODUCTS.items():
    # Each product is a multiplication and an addition; biases and relus add
    # a little.
    assert found[name] == pytest.approx(2 * products, rel=0.05), name
  assert found['ours'] <= found['plain'] / 20


def test_no_array_has_outputs_times_index_for_every_example():
  jaxpr = jax.make_jaxpr(ours)(*arguments(B, N))
  sizes = [v.aval.size for e in equations(jaxpr.jaxpr) for v in e.outvars]
  assert max(sizes) == N * B * C  # the result
  assert math.prod((N, B, C, D)) == 30 * max(sizes)
