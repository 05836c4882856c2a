"""over_index and reduce_over_index against loops in Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import sharding
from flax_enn.core import Output
from flax_enn.indexers import GaussianIndexer, PrngIndexer
from flax_enn.sampling import over_index, reduce_over_index
from tests.test_laws import equations

X = jnp.arange(6.0).reshape(3, 2) / 5
KEY = jax.random.key(4)


def fn(z):
  """`[D]` -> an `Output` with everything an output can have."""
  return Output(jnp.tanh(X * z), jnp.cos(X) * z[0], base=X, extra={'x': X})


def noisy(key):
  """A key -> `[B, C]`."""
  return X * jax.random.normal(key, X.shape)


CASES = {
    'gaussian': (fn, GaussianIndexer(2).sample(KEY, 7)),
    'typed keys': (noisy, PrngIndexer().sample(KEY, 7)),
}


def loop(fn, indices):
  """What over_index stands for."""
  results = [fn(indices[i]) for i in range(len(indices))]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def assert_trees_close(found, expected):
  close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
  jax.tree.map(close, found, expected)


@pytest.mark.parametrize('name', CASES)
def test_over_index_is_a_loop(name):
  fn, indices = CASES[name]
  assert_trees_close(over_index(fn, indices), loop(fn, indices))


def test_over_index_maps_pairs():
  _, z = CASES['gaussian']
  pairs = (z, jnp.arange(7.0))
  found = over_index(lambda p: p[0].sum() * p[1], pairs)
  np.testing.assert_allclose(found, np.asarray(z).sum(1) * np.arange(7), 1e-5)


def test_out_axes_puts_the_index_elsewhere():
  fn, indices = CASES['gaussian']
  last = over_index(lambda z: fn(z).train, indices, out_axes=-1)
  np.testing.assert_allclose(
      np.moveaxis(last, -1, 0), loop(fn, indices).train, rtol=1e-6
  )


def test_out_axes_none_returns_what_is_free_of_the_index_once():
  _, indices = CASES['gaussian']
  mapped, free = over_index(
      lambda z: (z, X.mean()), indices, out_axes=(0, None)
  )
  np.testing.assert_array_equal(mapped, indices)
  assert free.shape == ()
  np.testing.assert_allclose(free, np.asarray(X).mean(), rtol=1e-6)


def test_out_axes_none_rejects_what_depends_on_the_index():
  _, indices = CASES['gaussian']
  with pytest.raises(ValueError, match='out_axes'):
    over_index(lambda z: z.sum(), indices, out_axes=None)


def test_over_index_lies_on_the_index_axis_of_the_mesh():
  """The results are split over the index axis because a constraint says so."""
  mesh = sharding.create_mesh({'data': 2, 'index': 4})
  indices = GaussianIndexer(2).sample(KEY, 8)
  x = jnp.arange(8.0).reshape(4, 2)

  @jax.jit
  def run(indices):
    return over_index(
        lambda z: sharding.constrain(jnp.tanh(x * z), 'batch'), indices
    )

  with sharding.use_mesh(mesh):
    found = run(indices)
  shard = found.sharding.shard_shape(found.shape)
  assert shard == (8 // 4, 4 // 2, 2)
  np.testing.assert_allclose(found, np.tanh(x * indices[:, None]), rtol=1e-6)


def fold(carry, results):
  """An order-dependent fold: neither the chunks nor the indices may swap."""
  count, value = carry
  for result in results:
    value = 0.9 * value + result
    count += 1
  return count, value


@pytest.mark.parametrize('chunk', [1, 3, 7, 100])
@pytest.mark.parametrize('name', CASES)
def test_reduce_over_index_is_a_loop(name, chunk):
  fn, indices = CASES[name]

  def preds(z):
    out = fn(z)
    return out.preds if isinstance(out, Output) else out

  init = (jnp.int32(0), jnp.zeros_like(X))
  found = reduce_over_index(
      preds, indices, init=init, reduce=fold, chunk=chunk
  )
  expected = fold((0, np.zeros_like(X)), loop(preds, indices))
  assert_trees_close(found, expected)
  # The same after compilation, where the indices are not known.
  jitted = jax.jit(
      functools.partial(
          reduce_over_index, preds, init=init, reduce=fold, chunk=chunk
      )
  )
  assert_trees_close(jitted(indices), expected)


def test_over_index_takes_any_number_of_indices():
  """Where the index axis does not divide it, every device does all of them."""
  mesh = sharding.create_mesh({'data': 2, 'index': 4})
  indices = GaussianIndexer(2).sample(KEY, 6)
  with sharding.use_mesh(mesh):
    found = jax.jit(lambda z: over_index(lambda i: X * i, z))(indices)
  np.testing.assert_allclose(found, X * indices[:, None], rtol=1e-6)


@pytest.mark.parametrize('chunk', [2, 3, 7])
def test_reduce_over_index_maps_indices_with_their_weights(chunk):
  """Importance sampling: `(index, log weight)`, chunked together."""
  _, z = CASES['gaussian']
  log_weights = jnp.log(jnp.arange(1.0, 8.0))

  def weighted(pair):
    index, log_weight = pair
    return jnp.exp(log_weight) * index

  found = reduce_over_index(
      weighted,
      (z, log_weights),
      init=jnp.zeros(2),
      reduce=lambda carry, results: carry + results.sum(0),
      chunk=chunk,
  )
  np.testing.assert_allclose(found, np.arange(1.0, 8.0) @ z, rtol=1e-5)


@pytest.mark.parametrize('chunk', [0, -3])
def test_chunks_hold_an_index_at_least(chunk):
  fn, indices = CASES['gaussian']
  with pytest.raises(ValueError, match=f'chunk is {chunk}'):
    reduce_over_index(fn, indices, init=0, reduce=fold, chunk=chunk)


SIZE, WIDTH, DIM, CHUNK = 59, 31, 3, 23


def mean_of_many(indices):
  """A reduction whose results, `[B, C]` at each index, are large."""
  x = jnp.ones((SIZE, WIDTH, DIM))
  return reduce_over_index(
      lambda z: jnp.tanh(x @ z),
      indices,
      init=jnp.zeros((SIZE, WIDTH)),
      reduce=lambda carry, results: carry + results.sum(0) / len(indices),
      chunk=CHUNK,
  )


@pytest.mark.parametrize('n', [92, 97])  # four chunks, and a part of a fifth
def test_reduce_over_index_never_holds_all_results(n):
  """No array of the traced program outgrows the results of one chunk."""
  indices = jnp.ones((n, DIM))
  jaxpr = jax.make_jaxpr(mean_of_many)(indices)
  sizes = [v.aval.size for e in equations(jaxpr.jaxpr) for v in e.outvars]
  assert max(sizes) == CHUNK * SIZE * WIDTH
  np.testing.assert_allclose(mean_of_many(indices), np.tanh(DIM), rtol=1e-5)


def test_what_is_free_of_the_index_runs_once_before_the_loop():
  """In the program itself: XLA for GPUs moves no convolution out of a loop."""

  def base(x):
    return jax.nn.relu(x @ jnp.ones((WIDTH, DIM)))

  def mean(x, indices):
    return reduce_over_index(
        lambda z: jnp.tanh(base(x) @ z),
        indices,
        init=jnp.zeros(SIZE),
        reduce=lambda carry, results: carry + results.sum(0) / len(indices),
        chunk=CHUNK,
    )

  x = jnp.linspace(-1, 1, SIZE * WIDTH).reshape(SIZE, WIDTH)
  indices = jax.random.normal(KEY, (4 * CHUNK, DIM))
  jaxpr = jax.make_jaxpr(mean)(x, indices).jaxpr
  (loop,) = (e for e in jaxpr.eqns if e.primitive.name == 'scan')
  everywhere, within = (
      [e.primitive.name for e in equations(inner)].count('dot_general')
      for inner in (jaxpr, loop.params['jaxpr'].jaxpr)
  )
  assert (everywhere, within) == (2, 1)  # the base's is not in the loop
  expected = np.tanh(base(x) @ indices.T).mean(1)
  np.testing.assert_allclose(mean(x, indices), expected, rtol=1e-5, atol=1e-6)


def test_memory_is_flat_in_the_number_of_indices():
  def temporaries(n):
    compiled = jax.jit(mean_of_many).lower(jnp.ones((n, DIM))).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  few, many = 4 * CHUNK, 64 * CHUNK
  assert temporaries(few) > 0
  # What it may grow by is the indices themselves.
  assert temporaries(many) < 1.1 * temporaries(few) + many * DIM * 4
