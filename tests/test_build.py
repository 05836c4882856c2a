"""Configs made into objects, and what is said of those that cannot be."""

import dataclasses
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from flax_enn import build
from flax_enn.core import EpistemicNetwork
from flax_enn.losses import Bootstrap, Xent
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.priors.mlp_prior import MLPPrior

NETWORKS = 'flax_enn.networks'
MLP_CONFIG = {'name': 'mlp', 'hiddens': [6, 5], 'classes': 3}
ENSEMBLE = {'name': 'ensemble', 'member': MLP_CONFIG, 'size': 2}
EPINET = {
    'name': 'epinet',
    'base': MLP_CONFIG,
    'classes': 3,
    'features': ['inputs', 'hidden_1'],
    'index_dim': 4,
    'priors': {
        'x': {'name': 'mlp_prior', 'hiddens': [5], 'classes': 3, 'size': 4}
    },
}


def network(config):
  return build.build(config, NETWORKS, 'config.network')


def changed(config, **fields):
  """A copy with other fields; None takes one away."""
  return {k: v for k, v in {**config, **fields}.items() if v is not None}


PRIORS = {'x': MLPPrior(hiddens=(5,), classes=3, size=4)}
BASE = MLP(hiddens=(6, 5), classes=3)
CASES = {
    'flat': (MLP_CONFIG, BASE),
    'nested': (
        {'name': 'deterministic', 'base': MLP_CONFIG},
        Deterministic(base=BASE),
    ),
    'named dict': (
        EPINET,
        Epinet(
            base=BASE,
            classes=3,
            features=('inputs', 'hidden_1'),
            index_dim=4,
            priors=PRIORS,
        ),
    ),
    'frozen': (
        {'name': 'deterministic', 'base': {**MLP_CONFIG, 'frozen': True}},
        Deterministic(base=Frozen(net=BASE)),
    ),
    'not frozen': ({**MLP_CONFIG, 'frozen': False}, BASE),
    'several': (
        {**ENSEMBLE, 'prior': MLP_CONFIG},
        Ensemble(member=BASE, size=2, prior=BASE),
    ),
    'none': (
        {**ENSEMBLE, 'prior': None},
        Ensemble(member=BASE, size=2),
    ),
    'class by its path': (
        changed(MLP_CONFIG, name='flax_enn.networks.backbones.mlp:MLP'),
        BASE,
    ),
}


@pytest.mark.parametrize('wrap', [dict, ml_collections.ConfigDict])
@pytest.mark.parametrize('case', CASES)
def test_builds_what_is_named(case, wrap):
  config, expected = CASES[case]
  assert network(wrap(config)) == expected


def test_a_config_inside_a_dict_is_built_too():
  base = ml_collections.ConfigDict(MLP_CONFIG)
  built = network({'name': 'deterministic', 'base': base})
  assert built == Deterministic(BASE)


def test_a_config_is_left_as_it_was():
  config = ml_collections.ConfigDict(EPINET)
  before = config.to_json()
  network(config)
  assert config.to_json() == before


def test_sequences_become_tuples_so_that_networks_hash():
  built = network({**MLP_CONFIG, 'hiddens': [6, 5]})
  assert built.hiddens == (6, 5)
  assert isinstance(built.hiddens, tuple)
  assert hash(built) == hash(BASE)


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        ({'name': 'xent', 'label_smoothing': 0.1}, Xent(0.1)),
        (
            {'name': 'bootstrap', 'distribution': 'poisson', 'seed': 3},
            Bootstrap('poisson', seed=3),
        ),
    ],
    ids=['loss', 'noise'],
)
def test_builds_dataclasses_that_are_no_modules(config, expected):
  built = build.build(config, 'flax_enn.losses', 'config.objectives.data.loss')
  assert built == expected


def test_an_override_reaches_a_named_prior():
  """What --config.network.priors.x.scale=0.25 does, and to nothing else."""
  config = ml_collections.ConfigDict({'network': EPINET})
  before = network(config.network)
  config.network.priors.x.scale = 0.25
  after = network(config.network)
  assert before.priors['x'].scale == 1.0
  assert after.priors['x'].scale == 0.25
  assert after.clone(priors=PRIORS) == before


PRIOR = EPINET['priors']['x']


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (
            changed(MLP_CONFIG, name='epinett'),
            [
                "config.network.name is 'epinett'; did you mean 'epinet'?",
                'Known: ',
                'convnet, deterministic, ensemble, epinet',
                'mlp_prior',
            ],
        ),
        (
            changed(MLP_CONFIG, name='quux'),
            ["config.network.name is 'quux'", 'Known: ', 'epinet'],
        ),
        (
            changed(EPINET, base=changed(MLP_CONFIG, hidens=[3])),
            [
                'config.network.base.hidens is not a field of MLP;',
                "did you mean 'hiddens'?",
                'activation, classes',
            ],
        ),
        (
            changed(EPINET, priors={'x': changed(PRIOR, scael=1)}),
            ['config.network.priors.x.scael', "did you mean 'scale'?"],
        ),
        (
            changed(EPINET, base=changed(MLP_CONFIG, name='mlpp')),
            ["config.network.base.name is 'mlpp'", "did you mean 'mlp'?"],
        ),
        (changed(MLP_CONFIG, parent=1), ['config.network.parent']),
        (
            changed(EPINET, base=None, classes=None),
            ["config.network (Epinet) lacks the fields ['base', 'classes']"],
        ),
        (
            changed(EPINET, base=changed(MLP_CONFIG, classes=None)),
            ["config.network.base (MLP) lacks the fields ['classes']"],
        ),
        ({}, ['config.network is {}', 'needs a field `name`', 'epinet']),
        (None, ['config.network', 'needs a field `name`', 'epinet']),
        ({'size': 3}, ["config.network is {'size': 3}", '`name`']),
        (
            {'name': 'no.such.module:Net'},
            ["config.network.name is 'no.such.module:Net'", 'no.such'],
        ),
        (
            {'name': 'flax_enn.networks.epinet:Epinett'},
            ['config.network.name', 'cannot be loaded', 'Epinett'],
        ),
        (
            {'name': 'math:sqrt'},
            ["config.network.name is 'math:sqrt'", 'dataclass'],
        ),
        (
            {'name': 'layers'},
            ["config.network.name is 'layers'", 'no class of that name'],
        ),
    ],
    ids=lambda v: v.get('name', 'no name') if isinstance(v, dict) else None,
)
def test_bad_configs_say_where_and_what_instead(config, expected):
  with pytest.raises(ValueError) as raised:
    network(config)
  message = str(raised.value)
  assert [part for part in expected if part not in message] == [], message


def test_a_far_off_name_gets_no_hint():
  with pytest.raises(ValueError) as raised:
    network({'name': 'quux'})
  assert 'did you mean' not in str(raised.value)


SOURCE = textwrap.dedent('''
    """A network of one layer and a noisy output."""

    from flax import linen as nn
    from flax_enn.core import Output
    from flax_enn.indexers import GaussianIndexer


    class NoisyLine(nn.Module):
      classes: int
      base: nn.Module
      scale: float = 1.0

      @property
      def indexer(self):
        return GaussianIndexer(self.classes)

      @nn.compact
      def __call__(self, x, index, *, train=False):
        return Output(self.base(x)[0] + self.scale * index)
''')


@pytest.fixture
def package(tmp_path, monkeypatch):
  """A package outside, with one file in a sub-package."""
  folder = tmp_path / 'outside' / 'nets'
  folder.mkdir(parents=True)
  for path in (folder.parent / '__init__.py', folder / '__init__.py'):
    path.touch()
  (folder / 'noisy_line.py').write_text(SOURCE)
  monkeypatch.syspath_prepend(tmp_path)
  yield 'outside'
  for name in [m for m in sys.modules if m.partition('.')[0] == 'outside']:
    del sys.modules[name]


@pytest.mark.parametrize(
    ('name', 'where'),
    [
        ('outside.nets.noisy_line:NoisyLine', NETWORKS),
        ('noisy_line', 'outside'),
    ],
)
def test_adding_a_network_is_adding_one_file(package, name, where):
  del package
  base = changed(MLP_CONFIG, name='flax_enn.networks.backbones.mlp:MLP')
  config = {'name': name, 'classes': 3, 'scale': 2.0, 'base': base}
  built = build.build(config, where, 'config.network')
  assert isinstance(built, EpistemicNetwork)
  assert dataclasses.is_dataclass(built)
  x, index = jnp.ones((2, 4)), jnp.arange(3.0)
  variables = built.init(jax.random.key(0), x, index)
  shift = built.apply(variables, x, index).preds - (
      built.apply(variables, x, 0 * index).preds
  )
  assert jnp.allclose(shift, 2 * index, atol=1e-6)
