"""Values of a config that cannot be, or do not fit each other."""

import dataclasses
import math

from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from flax_enn.core import Output
from flax_enn.data.two_moons import TwoMoons
from flax_enn.evaluation.eval_state import EvalState
from flax_enn.indexers import EnsembleIndexer
from flax_enn.likelihoods import Gaussian
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.training import train_and_evaluate
from tests import tiny
from tests.bad_input.refusal import (
  L2,
  REGRESSION,
  XENT,
  check_refused,
  no_compile,
)

# The change of a good config -> what the message must hold: the field, what was
# found, what was expected.
CONFIGS = {
    'inputs without a number': (
        {'dataset': {'name': f'{__name__}:Hollow'}},
        ['config.dataset: Hollow(', '[(0,)]'],
    ),
    'warm-up beyond the end': (
        {'optimizer.schedule.warmup_steps': 4},
        ['config.optimizer.schedule.warmup_steps is 4', 'config.num_steps (4)'],
    ),
    'negative learning rate': (
        {'optimizer.learning_rate': -1.0},
        ['config.optimizer.learning_rate is -1.0', 'at least 0'],
    ),
    'no learning rate': (
        {'optimizer': {'name': 'sgd'}},
        ['config.optimizer.learning_rate is None'],
    ),
    'batch size 0': ({'batch_size': 0}, ['config.batch_size is 0', 'least 1']),
    'negative batch size': (
        {'batch_size': -8},
        ['config.batch_size is -8', 'at least 1'],
    ),
    'batch size that is a text': (
        {'batch_size': '16'},
        ["config.batch_size is '16'", 'integer'],
    ),
    'batch size not divided by the devices': (
        {'batch_size': 12},
        ['config.batch_size', '12', '8 devices', 'multiple of 8'],
    ),
    'batch size above the data': (
        {'batch_size': 128},
        ['config.batch_size is 128', '64 examples', 'or less'],
    ),
    'training split empty but for less than a batch': (
        {'dataset.holdout': 0.9},
        ['config.batch_size is 16', '6 examples'],
    ),
    'empty validation split': (
        {'dataset.holdout': 0.001},
        ['config.dataset', 'holdout is 0.001', 'empty'],
    ),
    'holdout above 1': (
        {'dataset.holdout': 1.5},
        ['config.dataset', 'holdout is 1.5', 'below 1'],
    ),
    'negative read-ahead': (
        {'dataset.read_ahead': -1},
        ['config.dataset', 'read_ahead is -1', 'at least 0'],
    ),
    'no step': ({'num_steps': 0}, ['config.num_steps is 0', 'at least 1']),
    'negative seed': ({'seed': -1}, ['config.seed is -1', 'at least 0']),
    'seed of more than 32 bits': (
        {'seed': 2**32},
        ['config.seed is 4294967296', 'at most 4294967295'],
    ),
    'more labels at once than a batch has inputs': (
        {'eval.tau': 17},
        ['config.eval.tau is 17', 'config.batch_size (16)'],
    ),
    **{
        f'{field} {value}': (
            {f'eval.{field}': value},
            [f'config.eval.{field}: temperature is {value!r}', 'above 0'],
        )
        for field, values in (
            ('temperature', (0.0, -1.0, math.inf, math.nan, '0.7', None)),
            ('base_temperature', (0.0, None)),
        )
        for value in values
    },
    **{
        f'{field} of a regression': (
            {**REGRESSION, f'eval.{field}': 0.7},
            [f'config.eval.{field}: temperature is 0.7', 'leave it at 1'],
        )
        for field in ('temperature', 'base_temperature')
    },
    'negative weight decay': (
        {'optimizer.weight_decay': -1.0},
        ['config.optimizer.weight_decay is -1.0', 'at least 0'],
    ),
    'momentum of 1': (
        {'optimizer': {'name': 'sgd', 'learning_rate': 0.1, 'momentum': 1.0}},
        ['config.optimizer.momentum is 1.0', 'less than 1'],
    ),
    'weight of an objective that is not finite': (
        {'objectives': {'data': {**XENT, 'weight': math.inf}}},
        ['config.objectives.data.weight is inf', 'finite'],
    ),
    'noise for a loss across indices': (
        {
            'objectives.data.across': True,
            'objectives.data.noise': {'boot': {'name': 'bootstrap'}},
        },
        ['config.objectives.data', 'noise is that of one index', '(across)'],
    ),
    'keeps no checkpoint': (
        {'checkpoint.keep': 0},
        ['config.checkpoint.keep is 0', 'at least 1'],
    ),
    'indices not divided by the index axis': (
        {'mesh.index': 4},
        ['config.num_indices is 2', 'config.mesh', 'multiple of 4'],
    ),
    'mesh of other devices': (
        {'mesh': {'data': 3, 'index': 1, 'fsdp': 1}},
        ['config.mesh', "'data': 3", '8 devices'],
    ),
    'mesh of size 0': ({'mesh.fsdp': 0}, ['config.mesh', "'fsdp': 0"]),
    'mesh with two unknown axes': (
        {'mesh.index': -1},
        ['config.mesh', 'at most one is -1'],
    ),
    'more classes than the data set': (
        {'network.classes': 3, 'network.base.classes': 3},
        ['config.network', 'outputs [16, 3]', 'Categorical(classes=2', 'to 2'],
    ),
    'other classes than the base': (
        {'network.classes': 3},
        ['config.network', '2 outputs', 'the epinet 3', 'leave the latter out'],
    ),
    'a network that sows into its state': (
        {'network': {'name': f'{__name__}:Sowing'}},
        ['config.network', "'moments'", 'sow', "'intermediates'"],
    ),
    'likelihood that cannot be': (
        {'likelihood': {'name': 'two_hot', 'low': 1, 'high': 0, 'atoms': 5}},
        ['config.likelihood', 'low is 1', 'below high'],
    ),
    'likelihood of more classes than the network emits': (
        {
            'likelihood': {'name': 'categorical', 'classes': 5},
            'network.base.classes': 2,
            'network.classes': 2,
        },
        ['config.network', 'outputs [16, 2]', 'Categorical(classes=5', '16, 5'],
    ),
    'a network of two outputs for a learned variance of one target': (
        {
            **REGRESSION,
            'objectives.data': {'loss': {'name': 'nll'}},
            'likelihood': {'name': 'gaussian', 'scale': None},
            'network.base.classes': 1,
        },
        ['config.network', '1 outputs', 'the epinet 2'],
    ),
    'no indices in an evaluation': (
        {'evals': {'more': {'num_indices': 0}}},
        ['config.evals.more.num_indices is 0', 'at least 1'],
    ),
    'more labels at once in an evaluation than a batch has inputs': (
        {'evals': {'more': {'tau': 17}}},
        ['config.evals.more.tau is 17', 'config.batch_size (16)'],
    ),
    'temperature of an evaluation': (
        {'evals': {'more': {'temperature': 0}}},
        ['config.evals.more.temperature: temperature is 0', 'above 0'],
    ),
    'empty split of an evaluation': (
        {'evals': {'more': {'split': 'validation'}}},
        ['config.evals.more', "'validation' is empty", 'holdout is 0.0'],
    ),
    'inputs that are not images': (
        {
            'network.base': {'name': 'convnet'},
            'network.features': ('hidden',),
        },
        ['config.network', 'inputs float32[2]', "'two_moons'"],
    ),
    'labels for a loss of targets': (
        {'objectives.data': L2},
        ['config.objectives.data', 'int32', "'xent'"],
    ),
    'targets for a loss of labels': (
        {'dataset': {'name': 'regression'}},
        ['config.objectives.data', 'float32', "'l2'"],
    ),
}


class Hollow(TwoMoons):
  """Its examples have no features."""

  input_spec = jax.ShapeDtypeStruct((0,), jnp.float32)


class Sowing(nn.Module):
  """A network that keeps what it computes in a collection of its state."""

  @property
  def indexer(self):
    return EnsembleIndexer(1)

  @nn.compact
  def __call__(self, x, index, *, train=False):
    out = nn.Dense(2)(x)
    self.sow('moments', 'mean', out.mean())
    return Output(out)


@pytest.mark.parametrize('case', CONFIGS)
def test_config(case, run):
  change, says = CONFIGS[case]
  check_refused(tiny.epinet(**change), run, says)


ENSEMBLES = {
    'members not divided by the index axis': (
        {'network.size': 3, 'mesh.index': 2},
        ['the size of config.network is 3', 'config.mesh', 'multiple of 2'],
    ),
    'priors of other classes than the members': (
        {'network.priors.member.member.classes': 5},
        ['config.network', "prior 'member'", '5, 2]', '3, 2]'],
    ),
}


@pytest.mark.parametrize('case', ENSEMBLES)
def test_ensemble(case, tmp_path):
  change, says = ENSEMBLES[case]
  check_refused(tiny.ensemble(**change), tmp_path / 'run', says)


@pytest.mark.parametrize(
    'network, index',
    [
        (Epinet(MLP((3,), 2), ('inputs',), index_dim=4), jnp.zeros(3)),
        (Epinet(MLP((3,), 2), ('inputs',), index_dim=4), jnp.zeros((5, 4))),
        (Ensemble(MLP((3,), 2), size=4), jnp.zeros(3)),
        (Ensemble(MLP((3,), 2), size=4), jnp.int32(1)),
    ],
    ids=['epinet short', 'epinet many', 'ensemble short', 'ensemble number'],
)
def test_an_index_of_the_wrong_shape(network, index):
  with pytest.raises(ValueError) as caught:
    network.init(jax.random.key(0), jnp.zeros((2, 2)), index)
  for part in (str(index.shape), 'expected (4,)', 'over_index'):
    assert part in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Askew(Gaussian):
  """Squared error trains it, and only its evaluation asks for densities."""

  def log_prob(self, outputs, y):
    return outputs @ y


def test_what_cannot_be_evaluated_is_not_trained(tmp_path):
  config = tiny.epinet(
      likelihood={'name': f'{__name__}:Askew', 'dim': 1, 'scale': 1.0},
      **REGRESSION,
  )
  says = ['config.eval: the network cannot be evaluated with Askew(', 'shape']
  check_refused(config, tmp_path / 'run', says)


def test_an_evaluation_is_traced_once(monkeypatch):
  """By the check, which costs a run nothing so."""
  trainer = tiny.built(tiny.epinet())
  monkeypatch.setattr(EvalState, 'of_batch', None)
  (evaluation,) = trainer.evaluations
  batches = evaluation.loader.eval_batches(
      trainer.dataset, 'test', evaluation.spec, batch_size=16
  )
  with trainer.use_mesh():
    variables = trainer.create_state().variables
    evaluation.scorer(variables, batches, jax.random.key(0))


@pytest.mark.parametrize('step', [0, 3, -1])
def test_a_profile_that_does_not_fit_the_run(tmp_path, step):
  workdir = tmp_path / 'run'
  says = f'--profile_at is {step};'
  with no_compile(), pytest.raises(ValueError, match=says):
    train_and_evaluate(tiny.epinet(), workdir, profile_at=step)
  assert not workdir.exists()
