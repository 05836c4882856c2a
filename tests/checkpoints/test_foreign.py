"""Warm starts from files of other libraries."""

import hashlib
import io
import itertools
import os
from pathlib import Path
import re

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from PIL import Image
import pytest
from safetensors.numpy import save_file

from flax_enn.checkpoints import check_init, foreign, warm_start
from flax_enn.inference import Predictor
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.training import load_config, train_and_evaluate
from tests.checkpoints.conftest import abstract, create_state

NET = ResNet(classes=10, depth=18, blocks=(1, 2), channels=(4, 8))


def state_dict(seed=0):
  """What PyTorch calls the weights of `NET`."""
  rng = np.random.default_rng(seed)

  def norm(name, size):
    return {
        f'{name}.weight': rng.random(size),
        f'{name}.bias': rng.random(size),
        f'{name}.running_mean': rng.random(size),
        f'{name}.running_var': rng.random(size),
        f'{name}.num_batches_tracked': np.array(7),
    }

  found = {'conv1.weight': rng.random((4, 3, 3, 3)), **norm('bn1', 4)}
  inputs = 4
  for block, size in (('1.0', 4), ('2.0', 8), ('2.1', 8)):
    block = f'layer{block}'
    found[f'{block}.conv1.weight'] = rng.random((size, inputs, 3, 3))
    found |= norm(f'{block}.bn1', size)
    found[f'{block}.conv2.weight'] = rng.random((size, size, 3, 3))
    found |= norm(f'{block}.bn2', size)
    inputs = size
  found |= {'fc.weight': rng.random((10, 8)), 'fc.bias': rng.random(10)}
  return {
      k: np.asarray(v, np.float32 if v.ndim else v.dtype)
      for k, v in found.items()
  }


@pytest.fixture(scope='module')
def variables():
  x = jnp.zeros((1, 8, 8, 3))
  return jax.tree.map(
      np.asarray, jax.jit(NET.init)(jax.random.key(0), x)
  )


def trained(variables, mesh):
  params = {'base': variables['params'], 'head': {'bias': np.zeros(3)}}
  collections = {'batch_stats': {'base': variables['batch_stats']}}
  return create_state(params, collections, 0, mesh)


def frozen(variables, mesh):
  params = {'head': {'bias': np.zeros(3, np.float32)}}
  return create_state(params, {'frozen': {'base': variables}}, 0, mesh)


def init(path, **fields):
  found = {'file': path, 'modules': {'base': 'cifar_resnet'}, **fields}
  return ml_collections.ConfigDict(found)


@pytest.fixture
def file(tmp_path):
  """A file of weights, by its kind."""

  def write(weights, suffix='.npz'):
    path = tmp_path / f'weights{suffix}'
    if suffix == '.npz':
      np.savez(path, **weights)
    else:
      save_file(weights, path)
    return path

  return write


@pytest.mark.parametrize('form', [trained, frozen])
@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_state_dict(form, suffix, variables, mesh, file):
  weights = state_dict()
  path = file(weights, suffix)
  state = form(variables, mesh)
  digest = hashlib.sha256(path.read_bytes()).hexdigest()
  asked = init(path.name, sha256=digest)
  check_init(asked, path.parent / 'run' / '..', abstract(state))
  found = warm_start(state, asked, path.parent)
  if form is frozen:
    base = found.collections['frozen']['base']
  else:
    stats = found.collections['batch_stats']['base']
    base = {'params': found.params['base'], 'batch_stats': stats}
    np.testing.assert_array_equal(found.params['head']['bias'], np.zeros(3))
  params, stats = base['params'], base['batch_stats']
  for value, expected in (
      (params['stem']['kernel'], weights['conv1.weight']),
      (params['block_1']['conv_0']['kernel'], weights['layer2.0.conv1.weight']),
      (params['block_2']['conv_1']['kernel'], weights['layer2.1.conv2.weight']),
  ):
    np.testing.assert_array_equal(value[1, 2, 0, :], expected[:, 0, 1, 2])
  block = params['block_0']['norm_1'], stats['block_0']['norm_1']
  for name, value in (
      ('weight', block[0]['scale']), ('bias', block[0]['bias']),
      ('running_mean', block[1]['mean']), ('running_var', block[1]['var']),
  ):  # fmt: skip
    np.testing.assert_array_equal(value, weights[f'layer1.0.bn2.{name}'])
  np.testing.assert_array_equal(params['out']['kernel'], weights['fc.weight'].T)
  leaves = jax.tree.leaves(variables)
  assert len(jax.tree.leaves(base)) == len(leaves)


def test_rules_of_a_config(mesh, tmp_path):
  """Quantised arrays, and a table that no library has."""
  rng = np.random.default_rng(0)
  weights = {
      'w0': rng.integers(256, size=(3, 2), dtype=np.uint8),
      'ws0': np.array([0.5], np.float32),
      'wz0': np.array([122], np.int32),
      'b0': np.ones(3, np.float16),
      'graph': np.array('text'),
  }
  np.savez(tmp_path / 'a.npz', **weights)
  rules = (
      (r'w(\d+)', r'params/layer_\1/kernel', 'OI', r'ws\1', r'wz\1'),
      (r'b(\d+)', r'params/layer_\1/bias'),
      ('graph', ''),
  )
  params = {'layer_0': {
      'kernel': np.zeros((2, 3), np.float32), 'bias': np.zeros(3, np.float32),
  }}  # fmt: skip
  state = create_state({'base': params}, {}, 0, mesh)
  asked = init('a.npz', modules={'base': rules})
  found = warm_start(state, asked, tmp_path).params['base']['layer_0']
  expected = (np.float32(weights['w0'].T) - 122) * 0.5
  np.testing.assert_array_equal(found['kernel'], expected)
  np.testing.assert_array_equal(found['bias'], np.ones(3, np.float32))


@pytest.mark.slow
def test_an_epinet_on_a_base_from_elsewhere(file, tmp_path):
  """By the config alone; the base is what it was, after training too."""
  weights = state_dict()
  config = load_config('configs/cifar10_epinet.py:18,smoke')
  config.network.base.update(
      blocks=(1, 2), channels=(4, 8), padding='symmetric'
  )
  path = file(weights)
  config.init = {'file': str(path), 'modules': {'base': 'cifar_resnet'}}
  train_and_evaluate(config, tmp_path / 'run')
  base = Predictor.load(tmp_path / 'run').variables['frozen']['base']
  kernel = base['params']['block_2']['conv_0']['kernel']
  expected = weights['layer2.1.conv1.weight'].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(kernel, expected)


def without(weights, name):
  return {k: v for k, v in weights.items() if k != name}


@pytest.mark.parametrize(
    'change, fields, message',
    [
        (lambda w: without(w, 'fc.bias'), {}, r'out/bias: found nothing'),
        (
            lambda w: w | {'layer9.conv.weight': w['fc.bias']}, {},
            r'no rule knows these names:\n  layer9.conv.weight',
        ),
        (
            lambda w: w | {'fc.weight': w['fc.weight'].T}, {},
            r'out/kernel: found float32\[10, 8\], expected float32\[8, 10\]',
        ),
        (
            lambda w: w | {'fc.weight': w['fc.bias']}, {},
            r"'fc.weight' has the shape \[10\], expected OI",
        ),
        (
            lambda w: w | {'linear.bias': w['fc.bias']}, {},
            r'two arrays are params/out/bias',
        ),
        (
            lambda w: w, {'modules': {'base': 'cifar_resnets'}},
            r"did you mean 'cifar_resnet'\?",
        ),
        (
            lambda w: w, {'modules': {'bas': 'cifar_resnet'}},
            r"modules names 'bas'",
        ),
        (
            lambda w: w, {'modules': {'base': (('a', 'b', 'HWIO'),)}},
            r"layout of .* is not one of \['', 'OI', 'OIHW'\]",
        ),
        (lambda w: w, {'modules': {'base': ('ab',)}}, r"a rule is 'ab'"),
        (
            lambda w: w, {'modules': {'base': (('(', 'b'),)}},
            r'no regular expression',
        ),
        (
            lambda w: w, {'modules': {'base': (('.*', 'a', '', 'b'),)}},
            r"there is no 'b', its scale",
        ),
        (lambda w: w, {'sha256': 'abc'}, r'has the SHA-256 .*, expected abc'),
        (lambda w: w, {'step': 3}, r"there is no field \['step'\]"),
        (lambda w: w, {'file': 'weights.pt'}, r'expected .npz or .safetensors'),
        (lambda w: w, {'file': 'other.npz'}, r'does not exist'),
        (lambda w: w, {'modules': {}}, r'modules is empty'),
    ],
)  # fmt: skip
def test_what_does_not_fit(variables, mesh, file, change, fields, message):
  path = file(change(state_dict()))
  state = frozen(variables, mesh)
  with pytest.raises(ValueError, match=message):
    check_init(init(path.name, **fields), path.parent, abstract(state))


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
def test_damaged(suffix, file):
  path = file(state_dict(), suffix)
  content = path.read_bytes()
  for part in (content[:1000], b'', b'\x00' * 100):
    path.write_bytes(part)
    with pytest.raises(ValueError, match='cannot be read'):
      foreign.read(path)


def test_pickles_in_a_file_are_not_run(tmp_path):
  np.savez(tmp_path / 'a.npz', w=np.array([{'a': 1}]))
  with pytest.raises(ValueError, match=r'cannot be read.*allow_pickle'):
    foreign.read(tmp_path / 'a.npz')


@pytest.mark.slow
@pytest.mark.parametrize('layers', [20, 56])
def test_weights_that_were_trained_elsewhere(layers):
  """As accurate as they are said to be on JPEGs of quality 75."""
  folder = os.environ.get('FLAX_ENN_DATA')
  path = Path(folder or '.') / f'cifar10_resnet_weights/resnet{layers}.npz'
  if not folder or not path.exists():
    pytest.skip('FLAX_ENN_DATA names no folder with cifar10_resnet_weights')
  found = foreign.translate(
      foreign.read(path), foreign.rules_of('cifar_resnet'), path
  )
  variables = {}
  for name, value in found.items():
    *parents, leaf = name.split('/')
    tree = variables
    for parent in parents:
      tree = tree.setdefault(parent, {})
    tree[leaf] = value
  blocks = (layers - 2) // 6
  accuracy = {}
  with np.load(Path(folder) / 'cifar10_jpegpack.npz') as data:
    jpeg, ends, y = data['jpeg_test'], data['off_test'], data['y_test'][:1000]
  images = [
      np.asarray(Image.open(io.BytesIO(jpeg[a:b].tobytes())).convert('RGB'))
      for a, b in itertools.pairwise(ends[:1001])
  ]
  mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
  x = ((np.stack(images) / 255 - mean) / std).astype(np.float32)
  for padding in ('SAME', 'symmetric'):
    net = ResNet(10, 18, blocks=(blocks,) * 3, padding=padding)
    apply = jax.jit(lambda v, x, net=net: net.apply(v, x)[0].argmax(-1))
    accuracy[padding] = (np.asarray(apply(variables, x)) == y).mean()
  assert 0.79 < accuracy['symmetric'] < 0.86, accuracy
  assert accuracy['SAME'] < accuracy['symmetric'] - 0.02, accuracy


def test_tables_are_regular():
  for table in foreign.TABLES:
    for rule in foreign.rules_of(table):
      groups = re.compile(rule.names).groups
      assert ('#' in rule.path) == (groups > 0) or not rule.path
