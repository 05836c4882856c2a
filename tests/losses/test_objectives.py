"""Several objectives in one step: each on its own schedule, or only logged."""

import dataclasses
import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import losses
from flax_enn.core import Batch
from flax_enn.likelihoods import Categorical, Gaussian
from flax_enn.losses import Objective
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.epinet import Epinet
from flax_enn.training.objectives import create_objectives
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from tests import tiny
from tests.test_laws import PRODUCTS, equations

B, C = 6, 3
NETWORK = Epinet(
    base=MLP((5,), C), features=('inputs',), index_dim=2, hiddens=(4,)
)
RNG = np.random.default_rng(0)
BATCH = Batch(
    x=RNG.normal(size=(B, 2)).astype(np.float32),
    y=RNG.integers(C, size=B),
    weight=np.ones(B, np.float32),
    id=np.arange(B),
    mask=np.ones(B, np.float32),
)
XENT = Objective(losses.Xent())
CLASSES = Categorical(C)
SGD = optax.sgd(0.1)
DISTIL = {'mean': losses.MeanIndex(), 'drawn': None}


def start():
  return nn.unbox(init_state(NETWORK, SGD, 0, BATCH.x))


def stepper(objectives, likelihood=CLASSES):
  return functools.partial(
      train_step,
      network=NETWORK,
      objectives=objectives,
      tx=SGD,
      likelihood=likelihood,
      num_examples=B,
      num_indices=4,
  )


@functools.cache
def alone():
  return jax.jit(stepper({'data': XENT}))


def products(objectives):
  jaxpr = jax.make_jaxpr(stepper(objectives))(start(), BATCH)
  names = [equation.primitive.name for equation in equations(jaxpr.jaxpr)]
  return sum(name in PRODUCTS for name in names)


def nothing(outputs, batch, **_):
  return jnp.nan * outputs.preds.sum(-1)


def test_an_objective_of_weight_zero_is_logged_and_not_trained():
  logged = {
      'error': Objective(losses.AccuracyError(), 0),
      'broken': Objective(nothing, 0.0),
  }
  step = jax.jit(stepper({'data': XENT, **logged}))
  after, logs = step(start(), BATCH)
  expected, only = alone()(start(), BATCH)
  jax.tree.map(
      np.testing.assert_array_equal, after.params, expected.params
  )
  assert logs['loss'] == only['loss'] and np.isnan(logs['loss_broken'])
  assert 0 <= logs['loss_error'] <= 1
  assert after.first_nonfinite_step == -1


def test_an_objective_of_weight_zero_costs_no_backward_pass():
  fake = losses.GaussianInputs()
  forward = products({'data': Objective(losses.Xent(), 0)})
  trained = products({'data': XENT})
  logged = Objective(losses.PriorMatch(), 0, inputs=fake)
  assert trained > forward > 0
  # One more forward pass, of the generated inputs.
  assert products({'data': XENT, 'prior': logged}) == trained + forward


def test_an_objective_is_trained_in_every_so_many_th_step():
  both = {
      'data': XENT,
      'prior': Objective(losses.PriorMatch(), 2.0, every=3),
  }
  always = {**both, 'prior': Objective(losses.PriorMatch(), 2.0)}
  step, together = (jax.jit(stepper(o)) for o in (both, always))
  state = start()
  for number in range(1, 7):
    one = alone() if number % 3 else together
    expected, _ = one(state, BATCH)
    state, logs = step(state, BATCH)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
        state.params,
        expected.params,
    )
    assert logs['loss_prior'] > 0


def far(batch, key):
  """Inputs at which a network is not finite."""
  del key
  return batch.replace(x=jnp.full_like(batch.x, jnp.inf))


def late(step):
  return jnp.where(step < 1, 0.0, 1.0)


@pytest.mark.parametrize(
    'broken',
    [
        Objective(nothing, every=2),
        Objective(losses.PriorMatch(), inputs=far, every=2),
        Objective(nothing, late),
        Objective(losses.DistillMean(), 1, far, DISTIL, across=True, every=2),
    ],
    ids=['loss', 'network', 'schedule', 'across'],
)
def test_what_is_not_finite_harms_the_steps_it_is_trained_in_alone(broken):
  step = jax.jit(stepper({'data': XENT, 'broken': broken}))
  after, logs = step(start(), BATCH)
  expected, only = alone()(start(), BATCH)
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7),
      after.params,
      expected.params,
  )
  assert after.first_nonfinite_step == -1 and np.isnan(logs['loss_broken'])
  np.testing.assert_allclose(logs['loss'], only['loss'], rtol=1e-6)
  assert step(after, BATCH)[0].first_nonfinite_step == 2


@pytest.mark.parametrize('accumulation', [1, 2])
def test_what_is_not_finite_harms_no_convolution_either(accumulation):
  """Nor the microbatches that follow."""
  network = Deterministic(ConvNet(classes=C, channels=(2,), hidden=4))
  batch = BATCH.replace(x=RNG.normal(size=(B, 4, 4, 1)).astype(np.float32))
  step = functools.partial(
      stepper({}), network=network, accumulation=accumulation, num_indices=1
  )
  objectives = {
      'data': XENT,
      'logged': Objective(nothing, 0),
      'prior': Objective(losses.PriorMatch(), inputs=far, every=3),
  }
  state = nn.unbox(init_state(network, SGD, 0, batch.x))
  after, expected = (
      jax.jit(functools.partial(step, objectives=chosen))(state, batch)[0]
      for chosen in (objectives, {'data': XENT})
  )
  jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
      after.params,
      expected.params,
  )
  assert after.first_nonfinite_step == -1


def test_a_step_without_an_objective_has_no_backward_pass_of_it():
  fake = Objective(losses.PriorMatch(), inputs=losses.GaussianInputs(), every=5)
  step = stepper({'data': XENT, 'prior': fake})
  branches = np.zeros(2, int)
  for equation in jax.make_jaxpr(step)(start(), BATCH).eqns:
    if equation.primitive.name == 'cond':
      branches += [
          sum(e.primitive.name in PRODUCTS for e in equations(branch.jaxpr))
          for branch in equation.params['branches']
      ]
  forward = products({'data': Objective(losses.Xent(), 0)})
  without, with_it = branches
  assert without == forward and with_it == products({'data': XENT})


def test_a_config_says_when_an_objective_is_trained():
  config = tiny.epinet()
  config.objectives = {
      'data': {'loss': {'name': 'xent'}},
      'error': {'loss': {'name': 'accuracy_error'}, 'weight': 0},
      'prior': {
          'loss': {'name': 'prior_match'},
          'inputs': {'name': 'gaussian_inputs', 'scale': 2.0},
          'every': 5,
      },
  }
  assert create_objectives(config) == {
      'data': XENT,
      'error': Objective(losses.AccuracyError(), 0),
      'prior': Objective(
          losses.PriorMatch(), inputs=losses.GaussianInputs(2.0), every=5
      ),
  }
  config = tiny.changed(config, {'objectives.prior.every': 2.5})
  with pytest.raises(ValueError, match=r'prior\.every is 2\.5.*an integer'):
    create_objectives(config)


@pytest.mark.parametrize('every', [1, 2])
def test_a_loss_may_be_a_number(every):
  number = Objective(lambda outputs, batch, **_: 0.5, 2, every=every)
  _, logs = jax.jit(stepper({'data': XENT, 'number': number}))(start(), BATCH)
  expected = logs['loss_data'] + (1 if every == 1 else 0)
  np.testing.assert_allclose(logs['loss'], expected, rtol=1e-6)
  assert logs['loss_number'] == 0.5


@dataclasses.dataclass
class Shifted:
  """Inputs that do not hash, as a dataclass that is not frozen."""

  by: float = 1.0

  def __call__(self, batch, key):
    return batch.replace(x=batch.x + self.by)


@pytest.mark.parametrize(
    'choices',
    [
        {'inputs': Shifted()},
        {'indices': Shifted()},
        {'indices': {'mean': Shifted()}, 'across': True},
    ],
)
def test_what_does_not_hash_is_refused(choices):
  with pytest.raises(ValueError, match=r'is .*Shifted.* has no hash; object'):
    Objective(losses.Xent(), **choices)


def test_every_is_at_least_one():
  with pytest.raises(ValueError, match='every is 0'):
    Objective(losses.L2(), every=0)


@pytest.mark.parametrize('likelihood', [CLASSES, Gaussian(C)])
def test_distillation_to_the_mean_index_works(likelihood):
  """enn's prior losses with `distill_index=True` raise a TypeError."""
  distil = Objective(
      losses.DistillMean(),
      inputs=losses.GaussianInputs(2.0),
      indices=DISTIL,
      across=True,
  )
  prior = Objective(losses.PriorMatch(), 0.1, losses.GaussianInputs(2.0))
  step = jax.jit(stepper({'prior': prior, 'distil': distil}, likelihood))
  before = start()
  after, logs = step(before, BATCH)
  assert np.isfinite(logs['loss_distil']) and logs['loss_distil'] > 0
  # The base is at every index the same, and is moved by the mean index alone.
  moved = jax.tree.map(jnp.subtract, after.params, before.params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(moved['base']))
