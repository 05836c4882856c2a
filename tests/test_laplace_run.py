"""A posterior of a frozen base is fitted by a run like any other."""

import functools
import json

import jax
import numpy as np
import optax
import pytest

from flax_enn.core import Batch
from flax_enn.experiment import Experiment
from flax_enn.inference import Predictor
from flax_enn.likelihoods import Categorical
from flax_enn.loggers import SilentLogger
from flax_enn.losses import Objective, Xent
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.combined import Combined
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.laplace import Laplace
from flax_enn.step_batch import training_on
from flax_enn.training import train_and_evaluate
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from tests import tiny

N, B, CLASSES = 12, 4, 3


@pytest.mark.slow
def test_one_epoch_is_the_fit(tmp_path):
  base = {'name': 'mlp', 'hiddens': (8,)}
  config = tiny.epinet(network={'name': 'deterministic', 'base': base})
  train_and_evaluate(config, tmp_path / 'base')
  config = tiny.epinet(
      network={
          'name': 'laplace',
          'features': ('hidden_0',),
          'form': 'full',
          'base': {**base, 'frozen': True},
      },
      init={
          'workdir': '../base', 'step': 'latest', 'modules': {'base': 'base'}
      },
      num_indices=1,
  )
  results = train_and_evaluate(config, tmp_path / 'run')['test']
  first = json.loads((tmp_path / 'base' / 'results.json').read_text())['test']
  assert results['base']['nll'] == pytest.approx(first['enn']['nll'], rel=1e-4)
  assert results['enn']['nll'] != results['base']['nll']
  predictor = Predictor.load(tmp_path / 'run', step='latest')
  x = np.float32([[0.0, 1.0], [30.0, 30.0]])
  near, far = predictor.uncertainty(x)['epistemic']
  assert 0 < near < far


def laplace(form='kronecker', **fields):
  last = Frozen(MLP(hiddens=(), classes=CLASSES))
  return Laplace(last, ('inputs',), form=form, rank=8, **fields)


def data(seed=0, n=N):
  rng = np.random.RandomState(seed)
  x = rng.normal(size=(n, 2)).astype(np.float32)
  return x, rng.randint(CLASSES, size=n).astype(np.int32)


@pytest.mark.parametrize('form', ['full', 'kronecker'])
def test_further_epochs_change_nothing(form):
  run = Experiment(
      laplace(form), Objective(Xent()), optax.sgd(0.1), data(), 0,
      SilentLogger(), batch_size=B, num_indices=1,
      likelihood=Categorical(CLASSES),
  )  # fmt: skip
  found = {}
  for steps in (0, 1, N // B, 3 * N // B):
    run.train(steps - run.step)
    found[steps] = run.predict(data(1)[0], jax.random.key(0))
  none, part, whole, thrice = found.values()
  np.testing.assert_allclose(thrice, whole, rtol=1e-4)
  # A part of an epoch is an estimate of the whole; no step leaves the prior.
  assert 0 < np.abs(whole - part).max() < np.abs(whole - none).max()


@pytest.mark.parametrize('form', ['full', 'diagonal', 'kronecker', 'low_rank'])
def test_rows_without_an_example_add_nothing(form):
  """A mask of 0, and weights as so many copies; also inside of a network."""
  network = Combined(MLP(hiddens=(3,), classes=2), laplace(form), 'hidden_0')
  tx, (x, y) = optax.sgd(0.0), data(n=5)
  state = init_state(network, tx, 0, x)

  step = jax.jit(
      functools.partial(
          train_step, network=network, objectives={'data': Objective(Xent())},
          tx=tx, likelihood=Categorical(CLASSES), num_examples=5, num_indices=1,
      )
  )  # fmt: skip

  def fitted(rows, mask, weight):
    rows = np.array(rows)
    batch = Batch(x[rows], y[rows], np.float32(weight), rows, np.float32(mask))
    return step(state, batch)[0].collections['curvature']['head']

  alone = fitted([0, 1, 2], [1, 1, 1], [1, 1, 1])
  masked = fitted([0, 4, 1, 2], [1, 0, 1, 1], [1, 7, 1, 1])
  jax.tree.map(np.testing.assert_allclose, masked, alone)
  assert masked['num_examples'] == 5 and masked['sums']['seen'] == 3
  twice = fitted([0, 1, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1])['sums']
  heavy = fitted([0, 1, 2, 4], [1, 1, 1, 0], [1, 1, 2, 1])['sums']
  for name in set(twice) - {'seen'}:
    np.testing.assert_allclose(heavy[name], twice[name], rtol=1e-5, atol=1e-6)


def test_refuses_rows_that_are_not_the_examples():
  network, (x, y) = laplace(), data()
  batch = Batch(x, y, np.ones(N), np.arange(N), np.ones(N))

  def init(x):
    key = jax.random.key(0)
    return network.init({'params': key, 'frozen': key}, x, key)

  with training_on(batch, N):
    jax.eval_shape(init, x)
    with pytest.raises(ValueError, match='24 rows, but the batch has 12 exam'):
      jax.eval_shape(init, np.concatenate([x, x]))
