"""Configs made into objects, and what is said of those that cannot be."""

import dataclasses
import json
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_collections
import pytest

from flax_enn import build, kinds
from flax_enn.core import EpistemicNetwork
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.losses import Bootstrap, MeanIndex, Xent
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.training import default_config
from flax_enn.training.objectives import create_objectives

MLP_CONFIG = {'name': 'mlp', 'hiddens': [6, 5], 'classes': 3}
ENSEMBLE = {'name': 'ensemble', 'member': MLP_CONFIG, 'size': 2}
EPINET = {
    'name': 'epinet',
    'base': MLP_CONFIG,
    'features': ['inputs', 'hidden_1'],
    'index_dim': 4,
    'priors': {'x': {'name': 'mlp_prior', 'hiddens': [5]}},
}
# What a network is made of is looked up where networks are.
PART = dataclasses.replace(kinds.NETWORK, accepts=lambda cls: True)


def network(config, kind=kinds.NETWORK, outputs=None):
  return build.build(config, kind, 'config.network', outputs)


def changed(config, **fields):
  """A copy with other fields; None takes one away."""
  return {k: v for k, v in {**config, **fields}.items() if v is not None}


BASE = MLP(hiddens=(6, 5), classes=3)
PLAIN = Epinet(base=BASE, features=('inputs', 'hidden_1'), index_dim=4)
MEMBERS = {'name': 'ensemble_prior', 'member': MLP_CONFIG}
CASES = {
    'flat': (MLP_CONFIG, BASE),
    'nested': (
        {'name': 'deterministic', 'base': MLP_CONFIG},
        Deterministic(base=BASE),
    ),
    'priors': (EPINET, WithPrior(PLAIN, {'x': MLPPrior(hiddens=(5,))})),
    'scaled prior': (
        {
            **ENSEMBLE,
            'priors': {
                'member': {
                    'name': 'scaled_prior', 'net': MEMBERS, 'scale': [0, 1, 2]
                }
            },
        },
        WithPrior(
            Ensemble(member=BASE, size=2),
            {'member': ScaledPrior(EnsemblePrior(BASE), (0, 1, 2))},
        ),
    ),
    'no priors': ({**EPINET, 'priors': None}, PLAIN),
    'no priors left': ({**EPINET, 'priors': {}}, PLAIN),
    'priors in words': (
        {
            'name': 'with_prior',
            'network': changed(EPINET, priors=None),
            'priors': EPINET['priors'],
        },
        WithPrior(PLAIN, {'x': MLPPrior(hiddens=(5,))}),
    ),
    'priors around priors': (
        {
            'name': 'with_prior',
            'network': EPINET,
            'priors': {'y': EPINET['priors']['x']},
        },
        WithPrior(PLAIN, {n: MLPPrior(hiddens=(5,)) for n in 'xy'}),
    ),
    'frozen': (
        {'name': 'deterministic', 'base': {**MLP_CONFIG, 'frozen': True}},
        Deterministic(base=Frozen(net=BASE)),
    ),
    'frozen with its priors': (
        {**EPINET, 'frozen': True},
        Frozen(net=WithPrior(PLAIN, {'x': MLPPrior(hiddens=(5,))})),
    ),
    'not frozen': ({**MLP_CONFIG, 'frozen': False}, BASE),
    'class by its path': (
        changed(MLP_CONFIG, name='flax_enn.networks.backbones.mlp:MLP'),
        BASE,
    ),
}  # fmt: skip


@pytest.mark.parametrize('wrap', [dict, ml_collections.ConfigDict])
@pytest.mark.parametrize('case', CASES)
def test_builds_what_is_named(case, wrap):
  config, expected = CASES[case]
  assert network(wrap(config), PART) == expected


def test_outputs_fill_the_classes_that_are_left_out():
  """Everywhere below a network, and nowhere that says another number."""
  mlp = changed(MLP_CONFIG, classes=None)
  config = {
      **EPINET,
      'base': mlp,
      'priors': {
          'one': {'name': 'ensemble_prior', 'member': mlp},
          'two': {'name': 'ensemble_prior', 'member': {**mlp, 'classes': 7}},
      },
  }
  built = network(config, outputs=5)
  assert built.network.base.classes == built.network.classes == 5
  assert built.priors['one'].member.classes == 5
  assert built.priors['two'].member.classes == 7


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
  built = network({**MLP_CONFIG, 'hiddens': [6, 5]}, PART)
  assert built.hiddens == (6, 5)
  assert isinstance(built.hiddens, tuple)
  assert hash(built) == hash(BASE)


@pytest.mark.parametrize(
    ('config', 'kind', 'expected'),
    [
        ({'name': 'xent', 'label_smoothing': 0.1}, kinds.LOSS, Xent(0.1)),
        (
            {'name': 'bootstrap', 'distribution': 'poisson', 'seed': 3},
            kinds.NOISE,
            Bootstrap('poisson', seed=3),
        ),
        ({'name': 'mean_index'}, kinds.INDICES, MeanIndex()),
        (
            {'name': 'gaussian', 'dim': 2, 'scale': None},
            kinds.LIKELIHOOD,
            Gaussian(2, None),
        ),
    ],
    ids=['loss', 'noise', 'indices', 'likelihood'],
)
def test_builds_dataclasses_that_are_no_modules(config, kind, expected):
  assert build.build(config, kind, 'config.section') == expected


@pytest.mark.parametrize(
    ('name', 'kind', 'says', 'known'),
    [
        ('bootstrap', kinds.LOSS, 'which is not a loss', 'vbll_bound, xent'),
        ('objective', kinds.LOSS, 'which is not a loss', 'vbll_bound, xent'),
        ('mean_index', kinds.LOSS, 'which is not a loss', 'vbll_bound, xent'),
        ('xent', kinds.NOISE, 'not noise on data', 'bootstrap, target_noise'),
        ('data_noise', kinds.NOISE, 'neither a dataclass', ''),
        ('xent', kinds.INPUTS, 'which is not a choice of inputs', ''),
        ('bootstrap', kinds.INPUTS, 'which is not a choice of inputs', ''),
        ('bootstrap', kinds.INDICES, 'not a choice of indices', 'mean_index'),
        ('mlp', kinds.NETWORK, 'which is not an epistemic network', 'epinet'),
        ('mlp_prior', kinds.NETWORK, 'which is not an epistemic net', 'epinet'),
        ('frozen', kinds.NETWORK, 'which is not an epistemic net', 'epinet'),
        ('layers', kinds.NETWORK, 'neither a dataclass nor a Linen', ''),
        ('batching', kinds.DATASET, 'neither a dataclass', ''),
        ('loader', kinds.DATASET, 'which is not a data set', 'two_moons'),
        ('base', kinds.LIKELIHOOD, 'neither a dataclass', ''),
    ],
)
def test_what_is_of_another_kind_is_refused(name, kind, says, known):
  """One sentence, before anything is built."""
  with pytest.raises(ValueError) as raised:
    build.build({'name': name}, kind, 'config.section')
  message = str(raised.value)
  assert f"config.section.name is '{name}'" in message
  assert says in message
  assert known in message


@pytest.mark.parametrize(
    ('config', 'kind', 'says'),
    [
        (
            {'name': 'xent', 'label_smoothing': 2.0},
            kinds.LOSS,
            'config.section: label_smoothing is 2.0; set it to',
        ),
        (
            {'name': 'gaussian', 'scale': -1.0},
            kinds.LIKELIHOOD,
            'config.section: scale is -1.0; it is',
        ),
        (
            {'name': 'xent', 'priors': EPINET['priors']},
            kinds.LOSS,
            'config.section.priors is set, but Xent is not an epistemic net',
        ),
        (
            {'name': 'xent', 'frozen': True},
            kinds.LOSS,
            'config.section.frozen is set, but Xent is not a network',
        ),
        (
            {**EPINET, 'base': {**MLP_CONFIG, 'priors': EPINET['priors']}},
            kinds.NETWORK,
            'config.section.base.priors is set, but MLP is not an epistemic',
        ),
        (
            {
                'name': 'with_prior',
                'network': EPINET,
                'priors': EPINET['priors'],
            },
            kinds.NETWORK,
            "config.section: `priors` of WithPrior and of the network in it",
        ),
    ],
    ids=[
        'loss', 'likelihood', 'priors', 'frozen', 'priors of a base',
        'priors of one name',
    ],
)
def test_errors_begin_with_the_path(config, kind, says):
  with pytest.raises(ValueError) as raised:
    build.build(config, kind, 'config.section')
  assert str(raised.value).startswith(says)


@pytest.mark.parametrize(
    'value',
    [
        Categorical(9), Gaussian(2, None), Gaussian(1, 0.5),
        TwoHot(-1.0, 1.0, 7), TwoHot(atoms=(-1.0, 0.0, 2.5)),
    ],
    ids=str,
)
def test_what_is_described_is_built_again(value):
  """Also through JSON, as `model.json` has it."""
  text = json.dumps(build.describe(value))
  assert build.build(json.loads(text), kinds.LIKELIHOOD, 'there') == value


def test_objectives_are_built_with_their_schedules_and_indices():
  config = default_config()
  config.objectives = {
      'distil': {
          'loss': {'name': 'nll'},
          'weight': {
              'name': 'linear_schedule',
              'init_value': 1.0,
              'end_value': 0.0,
              'transition_steps': 100,
          },
          'indices': {'mean': {'name': 'mean_index'}, 'drawn': None},
          'across': True,
      },
      'data': {
          'loss': {'name': 'xent'},
          'weight': 0.5,
          'indices': {'name': 'mean_index'},
      },
  }
  objectives = create_objectives(config)
  distil, data = objectives['distil'], objectives['data']
  assert distil.indices == {'mean': MeanIndex(), 'drawn': None}
  assert [distil.weight_at(step) for step in (0, 25, 100)] == [1, 0.75, 0]
  assert (data.indices, data.weight_at(7)) == (MeanIndex(), 0.5)


def test_an_override_reaches_a_named_prior():
  """What --config.network.priors.x.scale=0.25 does, and to nothing else."""
  config = ml_collections.ConfigDict({'network': EPINET})
  before = network(config.network)
  config.network.priors.x.scale = 0.25
  after = network(config.network)
  assert before.priors['x'].scale == 1.0
  assert after.priors['x'].scale == 0.25
  assert after.network == before.network


PRIOR = EPINET['priors']['x']


@pytest.mark.parametrize(
    ('config', 'expected'),
    [
        (
            changed(MLP_CONFIG, name='epinett'),
            [
                "config.network.name is 'epinett'; did you mean 'epinet'?",
                'Known: ',
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
            [
                "config.network.base.name is 'mlpp'; did you mean 'mlp'?",
                'convnet',
                'mlp_prior',
            ],
        ),
        (changed(EPINET, parent=1), ['config.network.parent']),
        (
            changed(EPINET, base=None, features=None),
            ["config.network (Epinet) lacks the fields ['base', 'features']"],
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


    class OfAnyIndex(nn.Module):
      indexer: GaussianIndexer

      @nn.compact
      def __call__(self, x, index, *, train=False):
        return Output(nn.Dense(3)(x) * index.sum())
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


OUTSIDE = dataclasses.replace(kinds.NETWORK, package='outside')


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('outside.nets.noisy_line:NoisyLine', kinds.NETWORK),
        ('noisy_line', OUTSIDE),
    ],
    ids=['by its path', 'by its file'],
)
def test_adding_a_network_is_adding_one_file(package, name, kind):
  del package
  base = changed(MLP_CONFIG, name='flax_enn.networks.backbones.mlp:MLP')
  config = {'name': name, 'scale': 2.0, 'base': base}
  built = build.build(config, kind, 'config.network', outputs=3)
  assert isinstance(built, EpistemicNetwork)
  assert dataclasses.is_dataclass(built)
  x, index = jnp.ones((2, 4)), jnp.arange(3.0)
  variables = built.init(jax.random.key(0), x, index)
  shift = built.apply(variables, x, index).preds - (
      built.apply(variables, x, 0 * index).preds
  )
  assert jnp.allclose(shift, 2 * index, atol=1e-6)


def test_a_network_may_have_its_indexer_as_a_field(package):
  del package
  name = 'outside.nets.noisy_line:OfAnyIndex'
  assert build.find(name, kinds.NETWORK, 'config.network.name')
