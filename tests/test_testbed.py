"""Agents for neural_testbed, under its protocol."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import testbed
from flax_enn.testbed import base
from tests import slow
from tests.test_layering import ROOT


@dataclasses.dataclass
class Data:
  """As the testbed's."""

  x: np.ndarray
  y: np.ndarray


@dataclasses.dataclass
class Prior:
  """As the testbed's `PriorKnowledge`."""

  input_dim: int = 2
  num_train: int = 20
  num_classes: int = 2
  temperature: float = 0.1


def a_problem(seed=0, num_train=20, prior=None):
  """Data of a random network, and log-probabilities of its classes."""
  prior = prior or Prior(num_train=num_train)
  x_key, f_key, y_key = jax.random.split(jax.random.key(seed), 3)
  x = jax.random.normal(x_key, (num_train, prior.input_dim))
  truth = testbed.prior_only()(None, prior)
  y = jax.random.categorical(y_key, truth(x, f_key))[:, None]
  return Data(np.asarray(x), np.asarray(y)), prior, lambda x: truth(x, f_key)


QUICK = {
    'mlp': {},
    'logistic_regression': {},
    'ensemble': {'size': 3},
    'ensemble_plus': {'size': 3, 'distribution': 'exponential'},
    'epinet': {},
    'hypermodel': {},
    'bbb': {'kl_method': 'sample_based'},
    'dropout': {},
    'sgmcmc': {'burn_in': 1, 'save_every': 1},
    'uniform_class_probs': None,
    'average_class_probs': None,
    'prior_only': None,
}
# As published: the fields of the configs in neural_testbed/agents/factories, at
# commit f2090d1 of google-deepmind/neural_testbed; keyword -> value.
DEFAULTS = {
    'mlp': {  # baselines.py, MLPConfig
        'hiddens': (50, 50), 'l2_weight_decay': 1.0,
        'adaptive_weight_scale': True, 'num_steps': 1000, 'seed': 0,
    },
    'logistic_regression': {  # baselines.py, LogisticRegressionConfig
        'l2_weight_decay': 1.0, 'adaptive_weight_scale': True,
        'num_steps': 1000, 'seed': 0,
    },
    'ensemble': {  # ensemble.py, VanillaEnsembleConfig
        'size': 100, 'hiddens': (50, 50), 'l2_weight_decay': 1.0,
        'adaptive_weight_scale': True, 'num_steps': 1000, 'seed': 0,
    },
    'ensemble_plus': {  # ensemble_plus.py, EnsembleConfig
        'size': 100, 'hiddens': (50, 50), 'prior_scale': 3.0,
        'l2_weight_decay': 1.0, 'adaptive_weight_scale': True,
        'distribution': 'none', 'num_steps': 1000, 'seed': 0,
    },
    'epinet': {  # epinet.py, EpinetConfig
        'index_dim': 8, 'hiddens': (50, 50), 'epinet_hiddens': (15, 15),
        'prior_hiddens': (5, 5), 'prior_scale': 0.3,
        'matched_prior_scale': 0.0, 'l2_weight_decay': 0.2,
        'distribution': 'none', 'num_steps': 1000, 'seed': 0,
    },
    'hypermodel': {  # hypermodel.py, HypermodelConfig
        'index_dim': 6, 'hiddens': (50, 50), 'prior_hiddens': (10,),
        'prior_scale': 1.0, 'scale_kernels': False, 'l2_weight_decay': 1.0,
        'adaptive_weight_scale': True, 'distribution': 'none',
        'num_indices': 16, 'learning_rate': 1e-3, 'num_steps': 2000, 'seed': 0,
    },
    'bbb': {  # bbb.py, BBBConfig
        'hiddens': (50, 50), 'sigma_1': 1.0, 'sigma_2': 0.75,
        'mixture_scale': 1.0, 'kl_method': 'analytical',
        'adaptive_scale': True, 'output_scale': False, 'num_indices': 8,
        'learning_rate': 3e-3, 'num_steps': 1000, 'seed': 0,
    },
    'dropout': {  # dropout.py, McDropoutConfig
        'hiddens': (100, 100), 'rate': 0.1, 'dropout_input': False,
        'length_scale': 1.0, 'regularization_tau': 1.0,
        'exclude_bias_l2': False, 'adaptive_weight_scale': True,
        'learning_rate': 1e-3, 'num_steps': 1000, 'seed': 0,
    },
    'sgmcmc': {  # sgmcmc.py, SGMCMCConfig; its num_hidden is of both layers
        'hiddens': (50, 50), 'learning_rate': 1e-4, 'prior_variance': 0.1,
        'adaptive_prior_variance': False, 'alg_temperature': 1.0,
        'momentum_decay': 0.9, 'num_steps': 500_000, 'burn_in': 100_000,
        'save_every': 1000, 'seed': 0,
    },
    'uniform_class_probs': {}, 'average_class_probs': {}, 'prior_only': {},
}  # fmt: skip


def test_defaults_are_those_published():
  for name in testbed.__all__:
    parameters = inspect.signature(getattr(testbed, name)).parameters
    found = {k: p.default for k, p in parameters.items()}
    assert found == DEFAULTS[name], name
  # VanillaEnnConfig in agents/enn_agent.py, for those without a rate above.
  trained = inspect.signature(base.trained_agent).parameters
  assert trained['learning_rate'].default == 1e-3


@pytest.mark.slow
def test_sgmcmc_keeps_the_state_that_burn_in_ends_with():
  """But never the start: sgmcmc.py, sgd_agent. Both keep that of step 2."""
  data, prior, _ = a_problem()
  keys, found = jax.random.split(jax.random.key(0), 5), []
  for options in ({'burn_in': 2, 'save_every': 3}, {'burn_in': 0}):
    options = {'hiddens': (), 'num_steps': 3, 'save_every': 2, **options}
    sampler = testbed.sgmcmc(**options)(data, prior)
    found.append(jax.vmap(sampler, (None, 0))(jnp.asarray(data.x), keys))
  np.testing.assert_array_equal(*found)
  assert (found[0] == found[0][:1]).all()


# One function whatever the key.
POINTS = [
    'mlp', 'logistic_regression', 'uniform_class_probs', 'average_class_probs',
]  # fmt: skip


def an_agent(name):
  options = QUICK[name]
  if options is None:
    return getattr(testbed, name)()
  small = {'hiddens': (5,), 'num_steps': 4}
  known = inspect.signature(getattr(testbed, name)).parameters
  small = {k: v for k, v in small.items() if k in known}
  return getattr(testbed, name)(**small, **options)


def test_all_agents_are_tried():
  assert sorted(QUICK) == sorted(testbed.__all__)


# The others are tried in `make test-all`.
SLOW = ['bbb', 'dropout', 'ensemble_plus', 'hypermodel', 'sgmcmc']


@pytest.mark.parametrize(
    'name',
    [slow(name) if name in SLOW else name for name in sorted(QUICK)],
)
def test_protocol(name):
  data, prior, _ = a_problem()
  sampler = an_agent(name)(data, prior)
  x = jnp.asarray(data.x[:7])
  keys = jax.random.split(jax.random.key(0), 5)
  logits = jax.jit(jax.vmap(sampler, (None, 0)))(x, keys)
  assert logits.shape == (5, 7, 2) and np.isfinite(logits).all()
  for i in range(2):  # not traced, and again
    np.testing.assert_allclose(
        sampler(x, keys[i]), logits[i], rtol=1e-4, atol=1e-5
    )
  # The testbed has raw keys.
  raw = jax.vmap(jax.random.key_data)(keys)
  of_raw = jax.jit(jax.vmap(sampler, (None, 0)))(x, raw)
  np.testing.assert_allclose(of_raw, logits, rtol=1e-4, atol=1e-5)
  functions = len(np.unique(np.round(logits[:, 0, 0], 5)))
  assert functions == 1 if name in POINTS else functions > 1


def test_a_class_may_be_missing_from_the_data():
  data = Data(np.zeros((8, 2)), np.zeros((8, 1), int))
  agent = testbed.mlp(hiddens=(3,), num_steps=2)
  logits = agent(data, Prior(num_train=8))(jnp.zeros((1, 2)), jax.random.key(0))
  assert logits.shape == (1, 2)


def test_average_class_probs_are_frequencies():
  data = Data(np.zeros((8, 2)), np.array([[0]] * 6 + [[1]] * 2))
  sampler = testbed.average_class_probs()(data, Prior(num_train=8))
  probs = jax.nn.softmax(sampler(jnp.zeros((1, 2)), jax.random.key(0)))
  np.testing.assert_allclose(probs, [[0.75, 0.25]], rtol=1e-5)


@pytest.mark.parametrize(
    'y, found',
    [
        (np.array([[0], [2]]), 'labels from 0 to 2'),
        (np.array([[0.5], [1.0]]), 'expected integer labels'),
    ],
)
def test_refuses_labels_that_are_none(y, found):
  with pytest.raises(ValueError, match=found):
    testbed.mlp(num_steps=1)(Data(np.zeros((2, 2)), y), Prior(num_train=2))


@pytest.mark.parametrize(
    'make',
    [
        lambda: testbed.bbb(kl_method='exact'),
        lambda: testbed.sgmcmc(num_steps=10, burn_in=10),
        lambda: testbed.sgmcmc(num_steps=10, burn_in=0, save_every=11),
    ],
)
def test_refuses_options(make):
  with pytest.raises(ValueError, match='expected'):
    make()


def test_does_not_need_the_testbed():
  for path in (ROOT / 'flax_enn' / 'testbed').glob('*.py'):
    assert 'import neural_testbed' not in path.read_text()


def joint_kl(sampler, truth, prior, seed, tau=10, samples=400):
  """Of tau labels at two anchors, in nats: the testbed's dyadic sampling."""
  x_key, pick_key, y_key, z_key = jax.random.split(jax.random.key(seed), 4)
  keys = jax.random.split(z_key, samples)

  def of_pair(keys_of_pair):
    x_key, pick_key, y_key = keys_of_pair
    anchors = jax.random.normal(x_key, (2, prior.input_dim))
    x = anchors[jax.random.randint(pick_key, (tau,), 0, 2)]
    logits = truth(x)
    y = jax.random.categorical(y_key, logits)

    def log_prob(logits):
      logs = jax.nn.log_softmax(logits)
      return jnp.take_along_axis(logs, y[:, None], -1).sum()

    found = jax.vmap(lambda key: log_prob(sampler(x, key)))(keys)
    mean = jax.nn.logsumexp(found) - jnp.log(samples)
    return log_prob(logits) - mean

  pairs = [jax.random.split(k, 100) for k in (x_key, pick_key, y_key)]
  return float(jax.jit(jax.vmap(of_pair))(tuple(pairs)).mean())


@pytest.mark.slow
def test_priors_and_members_lower_the_joint_divergence():
  """As published: ensemble+ and epinet are far below one network."""
  agents = {
      'mlp': testbed.mlp(),
      'ensemble_plus': testbed.ensemble_plus(size=30),
      'epinet': testbed.epinet(),
  }
  scores = {name: [] for name in agents}
  for seed in range(3):
    data, prior, truth = a_problem(seed)
    for name, agent in agents.items():
      sampler = agent(data, prior)
      scores[name].append(joint_kl(sampler, truth, prior, seed + 100))
  means = {name: np.mean(values) for name, values in scores.items()}
  assert means['ensemble_plus'] < 0.8 * means['mlp'], means
  assert means['epinet'] < 0.8 * means['mlp'], means
