"""Operations and bytes of programs whose cost is known in closed form."""

import functools
import re

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

from flax_enn.dry_run.cost_analysis import bytes_accessed
from flax_enn.dry_run.program import Program
from tests import tiny
from tests.hlo_programs import compiled, flops, like


@pytest.fixture(scope='module', autouse=True)
def _compiled_anew():
  with tiny.compiled_anew():
    yield


def flops_as_written(fn, *args):
  """Of all devices together, before XLA has changed anything."""
  return flops(Program(jax.jit(fn).lower(*args).as_text('hlo')))


CONVOLUTIONS = {
    'same': ((2, 9, 9, 4), (3, 3, 4, 8), {}),
    'strides': ((2, 9, 8, 4), (3, 2, 4, 8), {'window_strides': (2, 3)}),
    'valid': ((2, 9, 9, 4), (3, 3, 4, 8), {'padding': 'VALID'}),
    'wide': ((2, 5, 5, 4), (5, 3, 4, 8), {'padding': ((4, 2), (0, 7))}),
    'cut': ((2, 9, 9, 4), (3, 3, 4, 8), {'padding': ((-1, 2), (0, -2))}),
    'groups': ((2, 9, 9, 8), (3, 3, 2, 12), {'feature_group_count': 4}),
    'depthwise': ((2, 9, 9, 3), (3, 3, 1, 6), {'feature_group_count': 3}),
    'batches': ((6, 9, 9, 4), (3, 3, 4, 6), {'batch_group_count': 3}),
    'holes': ((2, 9, 9, 4), (3, 3, 4, 8), {'rhs_dilation': (2, 3)}),
    'transposed': (
        (2, 5, 5, 4),
        (3, 3, 4, 8),
        {'lhs_dilation': (2, 3), 'padding': ((2, 2), (1, 3))},
    ),
}


@pytest.mark.parametrize('name', CONVOLUTIONS)
def test_operations_of_a_convolution(name):
  x, w, options = CONVOLUTIONS[name]
  options = {'window_strides': (1, 1), 'padding': 'SAME', **options}
  convolve = functools.partial(
      jax.lax.conv_general_dilated,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
      **options,
  )
  # Where all numbers are one, each result is the number of its products.
  products = int(convolve(np.ones(x, 'f4'), np.ones(w, 'f4')).sum())
  assert products
  assert flops_as_written(convolve, like(*x), like(*w)) == 2 * products
  program, _ = compiled(convolve, like(*x), like(*w))
  assert flops(program) == 2 * products


def test_operations_of_a_gradient():
  """Backward, a convolution is two of the same number of products."""

  def loss(w, x):
    y = jax.lax.conv(x, w, (2, 2), 'SAME')
    return (y**2).sum()

  args = like(8, 3, 3, 3), like(2, 3, 16, 16)
  forward = flops_as_written(loss, *args)
  both = jax.grad(loss, argnums=(0, 1))
  assert flops_as_written(both, *args) == 3 * forward
  assert flops(compiled(both, *args)[0]) == 3 * forward


def chain(x, w):
  """Seven products, one after the other."""

  def body(h, _):
    h = jnp.tanh(h @ w)
    return h, h.sum()

  return jax.lax.scan(body, x, None, length=7)


def test_loops_are_multiplied_out():
  x, w = like(16, 32, spec=P('data')), like(32, 32, spec=P())
  total = 7 * 2 * 16 * 32 * 32
  assert flops_as_written(chain, x, w) == total
  program, of_xla = compiled(chain, x, w)
  assert flops(program) == total / 4  # the index axis repeats them
  assert of_xla['flops'] < flops(program) / 3
  assert not program.unknown_trip_counts


def test_loops_inside_loops():
  def twice(x, w):
    return jax.lax.scan(lambda h, _: (chain(h, w)[0], None), x, None, 3)[0]

  x, w = like(16, 32), like(32, 32)
  total = 3 * 7 * 2 * 16 * 32 * 32
  assert flops_as_written(twice, x, w) == total
  assert flops(compiled(twice, x, w)[0]) == total


def test_a_loop_is_counted_by_its_condition():
  """XLA for TPUs does not write down how often a loop runs."""
  text = jax.jit(chain).lower(like(16, 32), like(32, 32)).compile().as_text()
  bare = re.sub(r'"known_trip_count":\{[^}]*\}', '', text)
  assert bare != text
  assert flops(Program(bare)) == flops(Program(text))
  for found, other in (('LT', 'LE'), ('constant(7)', 'constant(-9)')):
    assert found in bare
    changed = Program(bare.replace(found, other))
    assert flops(changed) != flops(Program(text))


def test_a_loop_of_unknown_length_is_said():
  def halve(x, w):
    return jax.lax.while_loop(
        lambda x: x.sum() > 1, lambda x: jnp.tanh(x @ w), x
    )

  program, _ = compiled(halve, like(8, 8), like(8, 8))
  assert flops(program) == 2 * 8**3
  assert program.unknown_trip_counts == 1


def test_what_nothing_uses_is_left_out():
  def unused(x, w):
    _ = x @ w @ w
    return x @ w

  def fn(x, w):
    return jax.lax.scan(lambda h, _: (unused(h, w), None), x, None, 3)[0]

  assert flops_as_written(fn, like(4, 8), like(8, 8)) == 3 * 2 * 4 * 8 * 8


def test_the_longest_of_alternatives_counts():
  def fn(x, w):
    return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

  args = like(4, 8), like(8, 8)
  expected = 2 * (2 * 4 * 8 * 8)
  assert flops_as_written(fn, *args) == expected
  assert flops(compiled(fn, *args)[0]) == expected


def test_bytes_moved():
  n = 1 << 16
  program, _ = compiled(lambda x: jnp.tanh(x) + 1, like(n))
  assert bytes_accessed(program) == 8 * n  # one fusion: in and out


def test_bytes_of_slices_in_a_loop():
  """Each trip reads a row of the matrix, not all of it."""

  def total(rows):
    return jax.lax.scan(
        lambda t, row: (t + jnp.sin(row), None), jnp.zeros(rows.shape[1]), rows
    )[0]

  rows, n = 50, 4096
  program, _ = compiled(total, like(rows, n))
  # Row, sum and sum again; copies of a few sums at the ends.
  assert bytes_accessed(program) == pytest.approx(3 * 4 * rows * n, rel=0.4)
