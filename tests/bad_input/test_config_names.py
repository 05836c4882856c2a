"""Names in a config that nobody knows, and those that are missing."""

import pytest

from tests import tiny
from tests.bad_input.refusal import check_refused

# The change of a good config -> what the message must hold: the field, what was
# found, what was expected.
CONFIGS = {
    'misspelt at the top': (
        {'batchsize': 8},
        ['config.batchsize', "did you mean 'batch_size'"],
    ),
    'misspelt in a section': (
        {'eval.evry': 1},
        ['config.eval.evry', "did you mean 'every'"],
    ),
    'misspelt in the mesh': (
        {'mesh.dta': 1},
        ['config.mesh.dta', "did you mean 'data'"],
    ),
    'misspelt in the network': (
        {'network.hidens': (5,)},
        ['config.network.hidens', "did you mean 'hiddens'"],
    ),
    'misspelt in the base': (
        {'network.base.hidens': (5,)},
        ['config.network.base.hidens', "did you mean 'hiddens'"],
    ),
    'misspelt in the optimizer': (
        {'optimizer.weight_decy': 0.1},
        ['config.optimizer.weight_decy', "did you mean 'weight_decay'"],
    ),
    'a field of another optimizer': (
        {'optimizer.momentum': 0.9},
        ['config.optimizer.momentum', 'adamw', 'b1'],
    ),
    'misspelt in the schedule': (
        {'optimizer.schedule.warmup_step': 1},
        ['config.optimizer.schedule.warmup_step', "mean 'warmup_steps'"],
    ),
    'misspelt in an objective': (
        {'objectives.data.wieght': 2.0},
        ['config.objectives.data.wieght', "did you mean 'weight'"],
    ),
    'misspelt in a loss': (
        {'objectives.data.loss.smoothing': 0.1},
        ['config.objectives.data.loss.smoothing', 'label_smoothing'],
    ),
    'misspelt in the dataset': (
        {'dataset.n_trian': 10},
        ['config.dataset.n_trian', "did you mean 'n_train'"],
    ),
    'unknown network': (
        {'network.name': 'epinett'},
        ['config.network.name', 'epinett', "did you mean 'epinet'", 'ensemble'],
    ),
    'unknown base': (
        {'network.base.name': 'mpl'},
        ['config.network.base.name', "'mpl'", "did you mean 'mlp'"],
    ),
    'a base for a network': (
        {'network': {'name': 'mlp', 'hiddens': (2,), 'classes': 2}},
        ['config.network.name', "'mlp'", 'deterministic'],
    ),
    'a network without a name': (
        {'network': {}},
        ['config.network', '`name`', 'epinet'],
    ),
    'unknown loss': (
        {'objectives.data.loss.name': 'xnt'},
        ['config.objectives.data.loss.name', "'xnt'", "mean 'xent'", 'l2'],
    ),
    'an objective without a loss': (
        {'objectives.data': {'weight': 1.0}},
        ['config.objectives.data', 'no loss'],
    ),
    'no objective': ({'objectives': {}}, ['config.objectives', 'xent']),
    'unknown noise': (
        {'objectives.data.noise': {'a': {'name': 'boot'}}},
        ['config.objectives.data.noise.a.name', "'boot'", 'bootstrap'],
    ),
    'unknown dataset': (
        {'dataset.name': 'two_mons'},
        ['config.dataset.name', 'two_mons', "did you mean 'two_moons'"],
    ),
    'unknown optimizer': (
        {'optimizer.name': 'adamww'},
        ['config.optimizer.name', "'adamww'", "did you mean 'adamw'"],
    ),
    'unknown schedule': (
        {'optimizer.schedule.name': 'step'},
        ['config.optimizer.schedule.name', "'step'", 'constant', 'cosine'],
    ),
    'half a section': (
        {'eval': {'every': 1}},
        ['config.eval lacks', 'num_indices', 'default_config'],
    ),
    'unknown likelihood': (
        {'likelihood': {'name': 'gausian'}},
        ['config.likelihood.name', "did you mean 'gaussian'", 'two_hot'],
    ),
    'misspelt in the likelihood': (
        {'likelihood': {'name': 'categorical', 'clases': 2}},
        ['config.likelihood.clases', "did you mean 'classes'"],
    ),
    **{
        f'an evaluation of the name {name}': (
            {'evals': {name: {'split': 'train'}}},
            [f'config.evals.{name}', 'choose another'],
        )
        for name in ('step', 'test', 'validation', 'a/b')
    },
    'misspelt in an evaluation': (
        {'evals': {'more': {'num_index': 3}}},
        ['config.evals.more.num_index', "did you mean 'num_indices'"],
    ),
    'an evaluation with a time of its own': (
        {'evals': {'more': {'every': 1}}},
        ['config.evals.more.every', 'is not a field of an evaluation'],
    ),
    'unknown data set of an evaluation': (
        {'evals': {'more': {'dataset': {'name': 'two_mons'}}}},
        ['config.evals.more.dataset.name', "did you mean 'two_moons'"],
    ),
    'misspelt in the data set of an evaluation': (
        {'evals': {'more': {'dataset': {'name': 'two_moons', 'n_tst': 1}}}},
        ['config.evals.more.dataset.n_tst', "did you mean 'n_test'"],
    ),
    'unknown split of an evaluation': (
        {'evals': {'more': {'split': 'tset'}}},
        ['config.evals.more', "no split 'tset'", 'validation'],
    ),
    'sharding without a mesh axis of that name': (
        {'sharding.batch': ('rows',)},
        ['config.sharding', "'rows'", "'data'"],
    ),
    'features that the base does not expose': (
        {'network.features': ('hidden_7',)},
        ['config.network', 'features', 'hidden_7', 'hidden_0'],
    ),
    'unknown activation': (
        {'network.base.activation': 'rleu'},
        ['config.network', 'rleu'],
    ),
    'TFDS set that is unknown': (
        {'dataset': {'name': 'tfds_images', 'tfds_name': 'cifar01'}},
        ['config.dataset', "tfds_name is 'cifar01'", 'cifar10'],
    ),
}


@pytest.mark.parametrize('case', CONFIGS)
def test_config(case, run):
  change, says = CONFIGS[case]
  check_refused(tiny.epinet(**change), run, says)
