"""Exported functions: the numbers of the Predictor, for any number of rows."""

import functools

from flax import linen as nn
import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import indexers, sharding
from flax_enn.core import Output
from flax_enn.inference import Predictor, bundle, stablehlo
from flax_enn.likelihoods import Categorical
from flax_enn.model import Model
from tests import slow, tiny
from tests.inference import models


class Dropped(nn.Module):
  """A dropout mask is the index, a PRNG key; inputs are a tree of two."""

  @property
  def indexer(self):
    return indexers.PrngIndexer()

  @nn.compact
  def __call__(self, x, index, *, train=False):
    h = nn.Dense(8)(x['numbers']) + nn.Embed(5, 8)(x['token'])
    keep = jax.random.bernoulli(index, 0.5, h.shape[1:])
    return Output(nn.Dense(3)(jnp.where(keep, h, 0)))


def dropped():
  model = Model(
      Dropped(),
      Categorical(3, temperature=2.0),
      {
          'numbers': jax.ShapeDtypeStruct((4,), np.float32),
          'token': jax.ShapeDtypeStruct((), np.int32),
      },
  )
  return of_model(model, 6)


def of_model(model, n):
  """Of random variables, statistics of batch norm too."""
  indices = model.network.indexer.sample(jax.random.key(1), n)
  variables = model.network.init(
      {'params': jax.random.key(0), 'frozen': jax.random.key(2)},
      model.dummy_input(),
      indices[0],
  )
  leaves, tree = jax.tree.flatten(nn.unbox(variables))
  rng = np.random.default_rng(0)
  noisy = [a + np.float32(rng.uniform(0.1, 0.5, a.shape)) for a in leaves]
  weights = rng.normal(size=n)
  return Predictor.create(
      *(model, jax.tree.unflatten(tree, noisy), indices, weights),
      mesh=one_device(),
  )


def of_config(config, n):
  return of_model(Model.from_config(config), n)


CASES = {
    'epinet': lambda: of_config(tiny.epinet(**{'eval.temperature': 1.5}), 9),
    'ensemble with batch norm': lambda: of_config(tiny.ensemble(), 2),
    'regression': lambda: models.linear(20, mesh=one_device()),
    'keys': dropped,
}
# The others are told apart in `make test-all`.
QUICK = ['epinet', 'regression']


def one_device():
  return sharding.create_mesh({}, jax.devices()[:1])


def exported(p, platforms=stablehlo.PLATFORMS):
  """The functions of a predictor as they are read back, and what they take."""
  indices, impl = bundle.index_arrays(p.indices, p.log_weights)
  found = stablehlo.export_functions(
      p.model, p.variables, indices, impl, platforms
  )
  files = bundle.to_arrays(p.variables), indices
  return {
      name: functools.partial(
          jax.jit(export.deserialize(e.serialize()).call), *files
      )
      for name, e in found.items()
  }


def inputs(p, rows):
  """Random ones of its model, and targets."""
  rng = np.random.default_rng(rows)

  def draw(spec):
    shape = rows, *spec.shape
    if spec.dtype == np.int32:
      return rng.integers(0, 2, shape).astype(np.int32)
    return rng.normal(size=shape).astype(np.float32)

  spec = p.model.input_spec, p.model.likelihood.target
  return jax.tree.map(draw, spec)


@pytest.mark.parametrize(
    'case', [c if c in QUICK else slow(c) for c in CASES]
)
def test_numbers_of_the_predictor(case):
  p = CASES[case]()
  found = exported(p)
  mean = 'mean_and_std' if case == 'regression' else 'probs'
  assert set(found) == {'logits', mean, 'uncertainty', 'log_joint'}
  close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  all_x, all_y = inputs(p, 128)
  expected = {
      name: getattr(p, name)(all_x) for name in ('logits', mean, 'uncertainty')
  }
  for rows in (1, 7, 128):
    x, y = jax.tree.map(lambda a, n=rows: a[:n], (all_x, all_y))
    for name in (mean, 'uncertainty') if rows == 7 else (mean,):
      first = jax.tree.map(lambda a, n=rows: a[:n], expected[name])
      jax.tree.map(close, found[name](x), first)
    if rows == 7:
      close(found['logits'](x), expected['logits'][:, :7])
      close(found['log_joint'](x, y), p.log_joint(x, y))


def test_what_cannot_be_exported():
  class Counts(models.Members):
    def __call__(self, x, index, *, train=False):
      if len(x.shape) and int(x.shape[0]) > 2:
        x = x + 1
      return super().__call__(x, index)

  p = models.predictor(Counts(), Categorical(3), 5)
  with pytest.raises(ValueError, match='Counts cannot be exported for any num'):
    exported(p, ['cpu'])
  for platforms in [], ['cpu', 'gpu']:
    with pytest.raises(ValueError, match=r'--platforms is .*; expected some'):
      exported(p, platforms)
