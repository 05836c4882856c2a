"""What is wrong is said at once, with the field to change; nothing is lost."""

import contextlib
import dataclasses
import errno
import math
import shutil
import subprocess
from typing import ClassVar

from etils import epath
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn import run_folder, storage
from flax_enn.checkpoints import Checkpointer
from flax_enn.core import Output
from flax_enn.data.two_moons import TwoMoons
from flax_enn.evaluation.eval_state import EvalState
from flax_enn.indexers import EnsembleIndexer
from flax_enn.likelihoods import Gaussian
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.training import train_and_evaluate
from tests import slow, tiny

_COMPILED = []


def _listen(event, duration, **_):
  if event == '/jax/core/compile/backend_compile_duration':
    _COMPILED.append(duration)


@pytest.fixture(scope='module', autouse=True)
def _listening():
  jax.monitoring.register_event_duration_secs_listener(_listen)
  yield
  jax.monitoring.clear_event_listeners()


@contextlib.contextmanager
def no_compile():
  """Fails if XLA compiles anything, be it `jnp.zeros`."""
  jax.clear_caches()
  before = len(_COMPILED)
  yield
  assert len(_COMPILED) == before


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """The workdir of a good, finished run of `tiny.epinet()`."""
  before = len(_COMPILED)
  workdir = tmp_path_factory.mktemp('run')
  train_and_evaluate(tiny.epinet(), workdir)
  assert len(_COMPILED) > before, 'the listener hears nothing'
  return workdir


def check_refused(config, workdir, says):
  """A ValueError that says it all, before any compile; no other trace."""
  before = tiny.files(workdir)
  with no_compile(), pytest.raises(ValueError) as caught:
    train_and_evaluate(config, workdir)
  message = str(caught.value)
  assert [part for part in says if part not in message] == [], message
  assert tiny.files(workdir) == before
  assert workdir.exists() == bool(before)


# The change of a good config -> what the message must hold: the field, what was
# found, what was expected.
_XENT, _L2 = {'loss': {'name': 'xent'}}, {'loss': {'name': 'l2'}}
_REGRESSION = {
    'dataset': {'name': 'regression', 'n_train': 64},
    'objectives.data': _L2,
}
CONFIGS = {
    'inputs without a number': (
        {'dataset': {'name': f'{__name__}:Hollow'}},
        ['config.dataset: Hollow(', '[(0,)]'],
    ),
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
    'half a section': (
        {'eval': {'every': 1}},
        ['config.eval lacks', 'num_indices', 'default_config'],
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
            {**_REGRESSION, f'eval.{field}': 0.7},
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
        {'objectives': {'data': {**_XENT, 'weight': math.inf}}},
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
    'unknown likelihood': (
        {'likelihood': {'name': 'gausian'}},
        ['config.likelihood.name', "did you mean 'gaussian'", 'two_hot'],
    ),
    'misspelt in the likelihood': (
        {'likelihood': {'name': 'categorical', 'clases': 2}},
        ['config.likelihood.clases', "did you mean 'classes'"],
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
            **_REGRESSION,
            'objectives.data': {'loss': {'name': 'nll'}},
            'likelihood': {'name': 'gaussian', 'scale': None},
            'network.base.classes': 1,
        },
        ['config.network', '1 outputs', 'the epinet 2'],
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
    'empty split of an evaluation': (
        {'evals': {'more': {'split': 'validation'}}},
        ['config.evals.more', "'validation' is empty", 'holdout is 0.0'],
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
    'inputs that are not images': (
        {
            'network.base': {'name': 'convnet'},
            'network.features': ('hidden',),
        },
        ['config.network', 'inputs float32[2]', "'two_moons'"],
    ),
    'labels for a loss of targets': (
        {'objectives.data': _L2},
        ['config.objectives.data', 'int32', "'xent'"],
    ),
    'targets for a loss of labels': (
        {'dataset': {'name': 'regression'}},
        ['config.objectives.data', 'float32', "'l2'"],
    ),
    'TFDS set that is unknown': (
        {'dataset': {'name': 'tfds_images', 'tfds_name': 'cifar01'}},
        ['config.dataset', "tfds_name is 'cifar01'", 'cifar10'],
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


def test_an_unprepared_tfds_set(run, tmp_path):
  dataset = {
      'name': 'tfds_images',
      'tfds_name': 'mnist',
      'data_dir': str(tmp_path),
  }
  says = ['config.dataset', 'data_dir', "'mnist'", 'download_and_prepare']
  check_refused(tiny.epinet(dataset=dataset), run, says)


def arrays(**changes):
  """Good arrays of 32 and 16 examples with two features, and changes."""
  rng = np.random.default_rng(0)
  good = {
      'x_train': rng.normal(size=(32, 2)).astype(np.float32),
      'y_train': np.arange(32) % 2,
      'x_test': rng.normal(size=(16, 2)).astype(np.float32),
      'y_test': np.arange(16) % 2,
  }
  return {**good, **{k: change(good[k]) for k, change in changes.items()}}


def _set(row, value):
  def change(array):
    array = array.copy()
    array[row] = value
    return array

  return change


ARRAYS = {
    'NaN in the data': (
        {'x_train': _set(5, math.nan)},
        ['x_train', 'not finite', '[5]'],
    ),
    'infinity in the test data': (
        {'x_test': _set((2, 1), math.inf)},
        ['x_test', 'not finite', '[2]'],
    ),
    'label above the classes': (
        {'y_test': _set(3, 7)},
        ['label 7', 'y_test', 'example 3', 'labels are 0 to 1'],
    ),
    'negative label': (
        {'y_train': _set(4, -1)},
        ['label -1', 'y_train', 'example 4', 'labels are 0 to 1'],
    ),
    'fewer labels than inputs': (
        {'y_train': lambda y: y[:-1]},
        ['x_train', '[32, 2]', '[31]'],
    ),
}


@pytest.mark.parametrize('case', ARRAYS)
def test_arrays(case, run, tmp_path):
  changes, says = ARRAYS[case]
  path = tmp_path / 'data.npz'
  np.savez(path, **arrays(**changes))
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  check_refused(config, run, ['config.dataset: path is', str(path), *says])


@pytest.mark.parametrize(
    'content, says',
    [
        (None, 'no such file'),
        (b'PK\x03\x04 and no more', 'cannot be read'),
    ],
    ids=['missing', 'no archive'],
)
def test_a_file_of_arrays_that_cannot_be_read(content, says, run, tmp_path):
  path = tmp_path / 'data.npz'
  if content is not None:
    path.write_bytes(content)
  config = tiny.epinet(dataset={'name': 'arrays', 'path': str(path)})
  check_refused(config, run, ['config.dataset: path is', str(path), says])


WORKDIRS = {
    'of another config': (
        {'network.hiddens': (7, 7), 'seed': 3},
        [
            'config.network.hiddens is [5] there and [7, 7] here',
            'config.seed is 0 there and 3 here',
            '--workdir',
        ],
    ),
    'of a config without a field': (
        {'network.prior_scale': 2.0},
        ["config.network.prior_scale is 'absent' there and 2.0 here"],
    ),
    'that is beyond the end': (
        {'num_steps': 3},
        ['config.num_steps is 3', 'has done 4 steps'],
    ),
}


@pytest.mark.parametrize('case', WORKDIRS)
def test_workdir(case, run):
  change, says = WORKDIRS[case]
  check_refused(tiny.epinet(**change), run, [str(run), *says])


def test_switches_that_change_the_numbers(run, monkeypatch):
  flags = '--xla_dump_to=x --xla_cpu_enable_fast_math=true'
  monkeypatch.setenv('XLA_FLAGS', flags)
  says = [
      str(run / 'switches.json'),
      'JAX_ENABLE_X64 was False and is True;',
      "XLA_FLAGS was None and is '--xla_cpu_enable_fast_math=true'. Set",
  ]
  with jax.enable_x64():
    check_refused(tiny.epinet(), run, says)


def test_only_what_differs_is_listed(run):
  with pytest.raises(ValueError) as caught:
    train_and_evaluate(
        tiny.epinet(seed=3, **{'eval.tau': 5}), run
    )
  assert str(caught.value).count(' there and ') == 1


def test_how_data_are_read_may_change(run):
  fields = {'dataset.workers': 2, 'dataset.read_ahead': 1}
  run_folder.check_resumable(tiny.epinet(**fields), epath.Path(run))


@pytest.fixture
def small_disk(tmp_path):
  """A folder on a disk of its own, of 200 kB."""
  disk = tmp_path / 'disk'
  disk.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', str(disk)]
  if not shutil.which('mount') or subprocess.run(mount, check=False).returncode:
    pytest.skip('nothing can be mounted here')
  yield disk
  subprocess.run(['umount', '--lazy', str(disk)], check=True)


@pytest.mark.parametrize('free', [0, slow(200)])
def test_a_full_disk(free, small_disk):
  """At the start, and in the middle; another try goes on once there is room."""
  fill, workdir = small_disk / 'fill', small_disk / 'run'
  with contextlib.suppress(OSError), fill.open('wb', buffering=0) as file:
    for _ in range(200 - free):
      file.write(bytes(1024))
  config = tiny.epinet(num_steps=200, **{'checkpoint.keep': 100})
  with pytest.raises(OSError, match=r'--workdir') as caught:
    train_and_evaluate(config, workdir)
  for part in (str(workdir), 'ake room'):
    assert part in str(caught.value)
  assert workdir.exists() == bool(free)
  assert not list(small_disk.glob('run/lock.json*'))


class UnavailableError(Exception):
  """As TensorFlow's, by which epath writes to a bucket."""

  error_code = 14


@pytest.mark.parametrize(
    'error, named',
    [
        (OSError(errno.ENOSPC, 'No space left on device'), True),
        (OSError(errno.EACCES, 'Permission denied', '/runs/a/x.json'), True),
        (OSError(errno.EACCES, 'Permission denied', '/data/x.npz'), False),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "/runs/a/x"'), True),
        (ValueError('RESOURCE_EXHAUSTED: Error writing "/data/x"'), False),
        (UnavailableError('503 when uploading /runs/a/x'), True),
        (UnavailableError('503 when reading /data/x'), False),
        (ValueError('/runs/a belongs to another config'), False),
        (RuntimeError('cannot read 3 bytes'), False),
    ],
    ids=str,
)
def test_errors_of_the_disk_name_the_workdir(error, named):
  kind = OSError if named else type(error)
  named_here = storage.disk_errors_named(epath.Path('/runs/a'))
  with pytest.raises(kind) as caught, named_here:
    raise error
  assert ('--workdir=/runs/a' in str(caught.value)) == named


INITS = {
    'no such run': (
        {'workdir': '../nowhere', 'modules': {'base': 'base'}},
        ['config.init: workdir is', '../nowhere', 'no such folder'],
    ),
    'a run without that module': (
        {'workdir': '../run', 'modules': {'base': 'bass'}},
        ['config.init: modules', "'bass'", 'base'],
    ),
    'a module this network does not have': (
        {'workdir': '../run', 'modules': {'bass': 'base'}},
        ['config.init: modules', "'bass'", 'base'],
    ),
    'a run without that step': (
        {'workdir': '../run', 'step': 3, 'modules': {'base': 'base'}},
        ['config.init: step is 3', '[2, 4]'],
    ),
    'misspelt': (
        {'workdir': '../run', 'module': {'base': 'base'}},
        ['config.init', "'module'", "'modules'"],
    ),
    'of another shape': (
        {'workdir': '../run', 'modules': {'base': 'base'}},
        [
            'config.init: modules.base',
            'params/layer_0/kernel',
            'found float32[2, 6], expected float32[2, 9]',
        ],
    ),
}


@pytest.mark.parametrize('case', INITS)
def test_init(case, run, tmp_path):
  init, says = INITS[case]
  shutil.copytree(run, tmp_path / 'run')
  width = 9 if case == 'of another shape' else 6
  config = tiny.epinet(init=init, **{'network.base.hiddens': (width,)})
  check_refused(config, tmp_path / 'new', says)


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


def _largest(folder):
  return max(folder.rglob('*'), key=lambda path: path.stat().st_size)


@pytest.mark.slow
def test_a_truncated_checkpoint_is_passed_over(run, tmp_path, caplog):
  workdir = tmp_path / 'run'
  shutil.copytree(run, workdir)
  (workdir / 'results.json').unlink()
  damaged = _largest(workdir / 'checkpoints' / '4' / 'state' / 'd')
  damaged.write_bytes(damaged.read_bytes()[:10])
  train_and_evaluate(tiny.epinet(), workdir)
  said = [r.getMessage() for r in caplog.records if r.levelname == 'WARNING']
  assert any(
      'step 4 is damaged' in m and 'going on from step 2' in m for m in said
  ), said
  assert (workdir / 'checkpoints' / 'damaged-4').exists()
  name = 'results.json'
  assert (workdir / name).read_bytes() == (run / name).read_bytes()
  config = tiny.epinet()
  assert tiny.last_state(config, workdir) == tiny.last_state(config, run)


def test_a_run_that_diverges_stops_and_keeps_what_was_good(tmp_path):
  config = tiny.epinet(
      num_steps=50,
      log_every=50,  # the flag is read before every save too
      objectives={'data': _L2},
      dataset={'name': 'regression', 'n_train': 64, 'n_test': 16},
      optimizer={'name': 'sgd', 'learning_rate': 1e3, 'momentum': 0.9},
      **{'checkpoint.every': 1},
  )
  with pytest.raises(FloatingPointError) as caught:
    train_and_evaluate(config, tmp_path)
  trainer = tiny.built(config)
  with (
      trainer.use_mesh(),
      contextlib.closing(Checkpointer(tmp_path)) as checkpointer,
  ):
    state, good = checkpointer.restore_latest(trainer.abstract_state)
    # One more step is the one that was not finite.
    batch = next(trainer.train_batches(good))
    after, logs = jax.jit(trainer.bound_step(64))(state, batch)
  assert all(np.isfinite(leaf).all() for leaf in _numbers(state))
  assert not all(
      np.isfinite(leaf).all() for leaf in _numbers((after.params, logs))
  )
  message = str(caught.value)
  assert f'not finite in step {good + 1};' in message
  assert f' is {good}. In a new' in message
  assert str(tmp_path) in message
  assert 'config.optimizer.learning_rate' in message
  assert not (tmp_path / 'results.json').exists()


@dataclasses.dataclass(frozen=True)
class Broken(TwoMoons):
  """Two moons with one input that is not finite, found when it is read."""

  def load(self, split):
    examples = super().load(split)
    if split == 'train':
      examples.x[self.bad] = math.nan
    return examples

  bad: ClassVar[int] = 99


@pytest.mark.slow
def test_data_that_break_off_leave_what_was_trained(tmp_path):
  config = tiny.epinet(
      num_steps=32,
      dataset={'name': f'{__name__}:Broken', 'n_train': 512, 'n_test': 24},
      **{'checkpoint.every': 0},
  )
  batches = tiny.built(config).train_batches()
  good = 0
  with pytest.raises(ValueError, match=r'not finite.*\[99\].*Correct the data'):
    while next(batches):
      good += 1
  assert 3 < good < 32, 'choose another seed'
  with pytest.raises(ValueError, match=r'not finite.*\[99\].*Correct the data'):
    train_and_evaluate(config, tmp_path)
  assert tiny.last_state(config, tmp_path)[1] == good


@dataclasses.dataclass(frozen=True)
class Askew(Gaussian):
  """Squared error trains it, and only its evaluation asks for densities."""

  def log_prob(self, outputs, y):
    return outputs @ y


def test_what_cannot_be_evaluated_is_not_trained(tmp_path):
  config = tiny.epinet(
      likelihood={'name': f'{__name__}:Askew', 'dim': 1, 'scale': 1.0},
      **_REGRESSION,
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


@dataclasses.dataclass(frozen=True)
class Torn(TwoMoons):
  """Two moons of which some cannot be read, found when they are read."""

  torn: tuple[int, ...] = (7, 90)

  def augment(self, x, rng):
    if any((x == self.load('train').x[i]).all() for i in self.torn):
      raise EOFError('torn')
    return x

  @property
  def preprocess(self):
    return Whole(tuple(self.load('test').x[7].tolist()))


@dataclasses.dataclass(frozen=True)
class Whole:
  torn: tuple[float, float]

  def __call__(self, x):
    if tuple(x.tolist()) == self.torn:
      raise EOFError('torn')
    return x


@pytest.mark.slow
def test_examples_that_cannot_be_read_are_passed_over(tmp_path, caplog):
  """Ended by them, the run goes on with a higher `skip_bad`."""
  config = tiny.epinet(
      num_steps=16,
      dataset={'name': f'{__name__}:Torn', 'n_train': 128, 'n_test': 24},
      **{'dataset.skip_bad': 1, 'checkpoint.every': 0},
  )
  says = r'^config\.dataset: .*id (7|90) .*With it 2 .*but skip_bad is 1;'
  with pytest.raises(ValueError, match=says):
    train_and_evaluate(config, tmp_path)
  _, saved = tiny.last_state(config, tmp_path)
  assert 0 < saved < 8  # in the first epoch, of 8 steps
  (first,) = run_folder.read_json(tmp_path / 'skipped' / 'train' / '0.json')
  config.dataset.skip_bad = 2
  caplog.clear()
  results = train_and_evaluate(config, tmp_path)
  text = caplog.text
  assert 'WARNING' in text and '1 examples were passed over so far' in text
  assert 'Passed over (2 of 2): the example with id' in text
  assert 'test: 1 examples are not scored' in text
  found = run_folder.read_json(tmp_path / 'skipped' / 'train' / '0.json')
  assert {*found} == {'7', '90'} and first in found
  assert math.isfinite(results['test']['enn']['nll'])


@pytest.mark.parametrize('step', [0, 3, -1])
def test_a_profile_that_does_not_fit_the_run(tmp_path, step):
  workdir = tmp_path / 'run'
  says = f'--profile_at is {step};'
  with no_compile(), pytest.raises(ValueError, match=says):
    train_and_evaluate(tiny.epinet(), workdir, profile_at=step)
  assert not workdir.exists()


def test_a_first_update_that_overflows_is_not_kept(tmp_path):
  config = tiny.epinet(
      **{'optimizer.learning_rate': 3e38, 'checkpoint.every': 1}
  )
  with pytest.raises(FloatingPointError) as caught:
    train_and_evaluate(config, tmp_path)
  for part in ('not finite in step 1;', 'is none yet'):
    assert part in str(caught.value)
  assert not list((tmp_path / 'checkpoints').iterdir())


def _numbers(tree):
  leaves = jax.tree.leaves(tree)
  return [np.asarray(a) for a in leaves if jnp.issubdtype(a.dtype, jnp.number)]


def test_a_run_without_tensorboard_says_what_to_install(tmp_path):
  workdir = tmp_path / 'run'
  code = f'''
import sys
sys.modules['tensorboard'] = None  # as if it were not installed
from flax_enn.training import train_and_evaluate
from tests import tiny
train_and_evaluate(tiny.epinet(), {str(workdir)!r})
'''
  with tiny.python('-c', code) as process:
    said, _ = process.communicate()
  assert process.returncode == 1
  last = said.strip().splitlines()[-1]
  assert last.startswith('ModuleNotFoundError: ')
  assert 'tensorboard is not installed' in last
  assert "pip install 'flax_enn[train]'" in last
  assert not workdir.exists()
