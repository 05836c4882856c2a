"""Training in memory, for notebooks."""

import re

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import (
    L2,
    MLP,
    Bootstrap,
    Deterministic,
    Ensemble,
    EnsemblePrior,
    Epinet,
    L2Penalty,
    Objective,
    WithPrior,
    Xent,
)
from flax_enn.core import Batch
from flax_enn.data.base import ArraySource
from flax_enn.data.in_memory import GivenArrays
from flax_enn.data.preprocess import Pixels
from flax_enn.data.regression import Regression
from flax_enn.data.sampled import Sampled
from flax_enn.experiment import Experiment
from flax_enn.loggers import TerminalLogger
from flax_enn.training.trainer import Trainer
from tests import tiny


def matched(size=3):
  member = MLP(hiddens=(8,), classes=1)
  return WithPrior(Ensemble(member, size), {'matched': EnsemblePrior(member)})


def an_experiment(objectives=None, **options):
  if objectives is None:
    objectives = Objective(L2(), noise=[Bootstrap()])
  options = {'optimizer': optax.adam(1e-2), 'dataset': Regression(), **options}
  return Experiment(matched(), objectives, **options)


def a_batch(x, y):
  ones = np.ones(len(x), np.float32)
  return Batch(x=x, y=y, weight=ones, id=np.arange(len(x)), mask=ones)


def test_trains_and_prints_its_progress(capsys):
  dataset = Regression(n_train=64, n_test=32)
  experiment = an_experiment(
      dataset=dataset,
      eval_datasets={'test': dataset},
      eval_log_every=30,
      logger=TerminalLogger('curve', seconds=0),
  )
  first = experiment.evaluate('test')
  experiment.train(60)
  lines = capsys.readouterr().out.splitlines()
  assert len([line for line in lines if 'dataset train' in line]) == 60
  tests = [line for line in lines if 'dataset test' in line]
  assert re.fullmatch(
      r'\[curve\] dataset test  step 60  rmse .* nll .* joint_nll .*', tests[-1]
  )
  assert len(tests) == 2 and experiment.step == 60
  last = experiment.evaluate('test')
  assert last['rmse'] < 0.8 * first['rmse']
  experiment.train(1)  # goes on
  assert experiment.step == 61


@pytest.mark.slow
def test_is_the_training_of_a_config():
  """What a run of the same recipe does, to rounding."""
  trainer = Trainer.from_config(tiny.epinet(), jax.devices()[:1])
  config = trainer.config
  experiment = Experiment(
      trainer.model.network,
      trainer.objectives,
      trainer.tx,
      trainer.dataset,
      config.seed,
      batch_size=config.batch_size,
      num_indices=trainer.num_indices,
      likelihood=trainer.model.likelihood,
  )
  experiment.train(3)
  with trainer.use_mesh():
    state, step = trainer.create_state(), trainer.jit_step()
    for batch, _ in zip(trainer.placed_batches(), range(3)):
      state, _ = step(state, batch)
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7),
      experiment.state.params,
      state.params,
  )


def test_a_key_is_one_function_and_can_be_traced():
  x = np.linspace(-1, 1, 7, dtype=np.float32)[:, None]
  experiment = an_experiment()
  keys = jax.random.split(jax.random.key(1), 16)
  many = jax.jit(jax.vmap(experiment.predict, (None, 0)))(x, keys)
  np.testing.assert_allclose(
      many[3], experiment.predict(x, keys[3]), rtol=1e-5, atol=1e-6
  )
  shown = experiment.predict(x[2:3], keys[3])
  np.testing.assert_allclose(many[3][2:3], shown, rtol=1e-5, atol=1e-6)
  # Three members: three functions.
  assert len(np.unique(np.round(many[:, 0, 0], 4))) == 3


def test_loss_is_the_weighted_sum_of_the_objectives():
  x, y = jnp.ones((4, 1)), jnp.zeros((4, 1))
  experiment = an_experiment({
      'data': Objective(L2()),
      'size': Objective(L2Penalty(0.1), weight=2.0),
  })
  found = experiment.loss(a_batch(x, y), jax.random.key(0))
  members = [experiment.predict(x, jax.random.key(i)) for i in range(20)]
  members = {float(preds[0, 0]) for preds in members}
  assert len(members) == 3
  kernels = [
      leaf
      for path, leaf in jax.tree.leaves_with_path(experiment.state.params)
      if 'kernel' in jax.tree_util.keystr(path)
  ]
  squares = sum(float(jnp.square(kernel).sum()) for kernel in kernels)
  expected = np.mean(np.square(list(members))) + 2 * 0.1 * squares
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_arrays_are_data(capsys):
  x = np.random.RandomState(0).normal(size=(40, 2))
  y = (x[:, 0] > 0).astype(np.int64)
  net = Epinet(MLP((8,), classes=2), ('hidden_0',), index_dim=2, hiddens=(4,))
  experiment = Experiment(
      net, Xent(), optax.adam(3e-2), (x, y), eval_datasets={'all': (x, y)},
      eval_log_every=1000,
  )  # fmt: skip
  experiment.train(80)
  assert experiment.evaluate('all')['accuracy'] > 0.9
  # The first step, and the last one, which was held back.
  steps = re.findall(r'step (\d+)', capsys.readouterr().out)
  assert steps[0] == '1' and steps[-1] == '80' and len(steps) < 80


@pytest.mark.parametrize(
    'options, found',
    [
        ({'dataset': (np.ones((3, 1)), np.ones((4, 1)))}, 'as many in both'),
        ({'dataset': (np.ones((3, 1)), np.ones(3))}, 'integer labels'),
        ({'train_log_every': 0}, 'train_log_every is 0'),
        ({'eval_log_every': 1.5}, 'eval_log_every is 1.5'),
        ({'num_indices': 0}, 'num_indices is 0'),
        ({'objectives': {}}, 'objectives is empty'),
        ({'dataset': (np.ones((3, 1)), np.ones((3, 2)))}, 'needs 2 outputs'),
        (
            {'dataset': (np.ones((3, 1)), np.array([0, 1, 2]))},
            'network WithPrior: .* needs 3 outputs',
        ),
    ],
)
def test_refuses(options, found):
  with pytest.raises(ValueError, match=found):
    an_experiment(**options)


def test_refuses_a_backbone_steps_and_names():
  with pytest.raises(ValueError, match='no `indexer`'):
    Experiment(MLP((3,), 1), L2(), optax.sgd(0.1), Regression())
  experiment = an_experiment()
  with pytest.raises(ValueError, match='num_steps is -3'):
    experiment.train(-3)
  with pytest.raises(ValueError, match=r"no 'no' in eval_datasets"):
    experiment.evaluate('no')


class Bytes(GivenArrays):
  """Inputs that are stored as bytes."""

  @property
  def input_spec(self):
    return jax.ShapeDtypeStruct((2, 2, 1), np.float32)

  @property
  def preprocess(self):
    return Pixels((2, 2, 1))


def test_data_are_preprocessed_in_training_and_in_evaluation():
  x = np.random.default_rng(0).integers(256, size=(8, 2, 2, 1), dtype=np.uint8)
  y = (x[:, 0, 0, 0] > 127).astype(np.int32)
  network = Deterministic(MLP((4,), 2))
  found = [
      Experiment(
          network, Xent(), optax.sgd(0.1), data, eval_datasets={'test': data}
      ).evaluate('test')['nll']
      for data in (Bytes(ArraySource(x, y)), (x.astype(np.float32) / 255, y))
  ]
  assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    ('x', 'says'),
    [
        (np.ones((3, 2, 2, 1), np.uint8), r'uint8\[3, 2, 2, 1\].*`preprocess'),
        (np.ones((3, 2, 2, 3), np.float32), r'float32\[3, 2, 2, 3\]; expected'),
        (np.ones((2, 2, 1), np.float32), 'one input is a batch of one'),
        ([1.0, 2.0], 'expected float32'),
    ],
)
def test_refuses_inputs_that_the_network_does_not_take(x, says):
  stored = np.zeros((8, 2, 2, 1), np.uint8), np.arange(8) % 2
  run = Experiment(
      Deterministic(MLP((4,), 2)),
      Xent(),
      optax.sgd(0.1),
      Bytes(ArraySource(*stored)),
  )
  for ask in (run.predict, lambda x, key: run.loss(a_batch(x, 0), key)):
    with pytest.raises(ValueError, match=rf'inputs are .*{says}'):
      ask(x, jax.random.key(0))


def test_inputs_may_be_a_tree_of_any_dtypes():
  class Tokens(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
      h = nn.Embed(5, 3)(x['ids']) * x['mask'][..., None]
      return nn.Dense(2)(h.mean(1)), {}

  rng = np.random.RandomState(0)
  x = {'ids': rng.randint(5, size=(12, 4)), 'mask': rng.rand(12, 4)}
  y = (x['ids'][:, 0] > 2).astype(np.int64)
  run = Experiment(Deterministic(Tokens()), Xent(), optax.adam(0.1), (x, y))
  run.train(3)
  assert run.predict(x, jax.random.key(0)).shape == (12, 2)


def test_stops_where_the_loss_is_not_finite():
  experiment = an_experiment(optimizer=optax.sgd(1e30))
  with pytest.raises(FloatingPointError, match='lower the learning rate'):
    experiment.train(5)


def test_an_objective_may_have_its_own_data_set():
  """Each is learned: the data on the left, the other data on the right."""
  left = np.linspace(-2, -1, 20, dtype=np.float32)[:, None]
  network = Deterministic(MLP(hiddens=(16,), classes=1))
  other = Sampled((-left, np.full_like(left, -3)))
  experiment = Experiment(
      network,
      {'data': Objective(L2()), 'other': Objective(L2(), 0.5, inputs=other)},
      optax.adam(3e-2),
      (left, np.full_like(left, 5)),
      batch_size=10,
      train_log_every=1000,
  )
  batch = a_batch(left[:7], left[:7])
  drawn = [other(batch, jax.random.key(i)) for i in range(2)]
  for one in drawn:
    assert one.x.shape == (7, 1)
    np.testing.assert_array_equal(one.x, -left[one.id])
    np.testing.assert_array_equal(one.y, np.full((7, 1), -3))
  assert (drawn[0].id != drawn[1].id).any()
  experiment.train(600)
  found = [experiment.predict(x, jax.random.key(0)) for x in (left, -left)]
  np.testing.assert_allclose(found[0], np.full_like(left, 5), atol=0.3)
  np.testing.assert_allclose(found[1], np.full_like(left, -3), atol=0.3)


def test_the_other_data_set_fits_the_first():
  x = np.ones((4, 2), np.float32)
  few, many = (x, np.arange(4) % 2), (x, np.arange(4))
  batch = a_batch(x, few[1])
  with pytest.raises(ValueError, match='the label 2, but'):
    Sampled(many, like=few)(batch, jax.random.key(0))
  assert Sampled(few, like=many)(batch, jax.random.key(0)).y.shape == (4,)
  wide = np.zeros((4, 2**22), np.float32)
  with pytest.raises(ValueError, match='compiled into the step'):
    Sampled((wide, few[1]))(batch, jax.random.key(0))


def test_a_config_may_name_the_other_data_set():
  section = {'name': 'flax_enn.data.two_moons:TwoMoons', 'n_train': 8}
  config = tiny.epinet()
  config.objectives.other = {
      'loss': {'name': 'xent'},
      'inputs': {'name': 'flax_enn.data.sampled:Sampled', 'dataset': section},
  }
  inputs = tiny.built(config).objectives['other'].inputs
  assert len(inputs.examples.id) == 8
