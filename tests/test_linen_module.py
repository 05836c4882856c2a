"""Modules of another library as a base and as members."""

from einops.layers.flax import EinMix, Rearrange, Reduce
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import Ensemble, Epinet, Xent, build, kinds
from flax_enn.experiment import Experiment
from flax_enn.loggers import SilentLogger
from flax_enn.networks.backbones.linen_module import LinenModule

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (32, 4, 4, 1))
HALVES = X.reshape(32, 2, 8).mean(-1) > 0
Y = np.asarray(HALVES.sum(-1, dtype=int))


def mixer():
  """An MLP-Mixer of a layer, of patches of 2 x 2 pixels."""
  return nn.Sequential((
      Rearrange('b (h p) (w q) c -> b (h w) (p q c)', {'p': 2, 'q': 2}),
      EinMix('b t c -> b t d', 'c d', 'd', {'c': 4, 'd': 16}),
      nn.gelu,
      EinMix('b t d -> b s d', 't s', 's', {'t': 4, 's': 4}),
      nn.gelu,
      Reduce('b t d -> b d', 'mean'),
      nn.Dense(3),
  ))


BASE = LinenModule(mixer(), features={'pooled': 'layers_5'})


def test_computes_what_the_module_does():
  variables = BASE.init(KEY, X)
  logits, features = BASE.apply(variables, X)
  params = variables['params']['net']
  np.testing.assert_array_equal(logits, mixer().apply({'params': params}, X))
  last = params['layers_6']
  by_hand = features['pooled'] @ last['kernel'] + last['bias']
  np.testing.assert_allclose(logits, by_hand, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'network',
    [Epinet(BASE, ('pooled',), index_dim=3, hiddens=(8,)), Ensemble(BASE, 2)],
    ids=['base', 'member'],
)
def test_trains(network):
  experiment = Experiment(
      network, Xent(), optax.adam(3e-2), (X, Y), logger=SilentLogger(),
      eval_datasets={'same': (X, Y)}, eval_log_every=1000,
  )  # fmt: skip
  before = experiment.evaluate('same')
  experiment.train(40)
  after = experiment.evaluate('same')
  assert after['nll'] < 0.8 * before['nll']
  assert after['joint_nll'] < 10 * after['nll']  # it has learned an index


class Dropout(nn.Module):
  classes: int = 3

  @nn.compact
  def __call__(self, x, *, deterministic):
    h = nn.Dropout(0.5, deterministic=deterministic)(jnp.ones_like(x))
    return nn.Dense(self.classes)(h)


def test_says_whether_it_is_trained():
  base = {
      'name': 'linen_module',
      'net': {'name': f'{__name__}:Dropout'},
      'mode': 'deterministic',
  }
  section = {'name': 'deterministic', 'base': base}
  net = build.build(section, kinds.NETWORK, 'config.network', 3).base
  x = X[:, 0, 0]
  variables = net.init(KEY, x)
  for train in (False, True):
    logits, _ = net.apply(variables, x, train=train, rngs={'dropout': KEY})
    assert (np.ptp(logits, axis=0).max() > 0) == train


def test_mistakes():
  class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
      return x, {}

  with pytest.raises(ValueError, match=r"paths \['block'\], .* 'layers_6'\]"):
    LinenModule(mixer(), {'hidden': 'block'}).init(KEY, X)
  with pytest.raises(ValueError, match='net is Pair, which returned a tuple'):
    LinenModule(Pair()).init(KEY, X)
