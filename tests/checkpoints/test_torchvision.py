"""Weights with torchvision's names, against its forward pass in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flax_enn.checkpoints import foreign
from flax_enn.core import promote_to_float32
from flax_enn.inference import Predictor
from flax_enn.networks.backbones.resnet import ResNet
from flax_enn.networks.backbones.vit import ViT
from flax_enn.training import load_config, train_and_evaluate


def affine(name, size):
  return {f'{name}.weight': (size,), f'{name}.bias': (size,)}


def dense(name, outputs, inputs):
  return {f'{name}.weight': (outputs, inputs), f'{name}.bias': (outputs,)}


def batch_norm(name, size):
  running = {f'{name}.running_{k}': (size,) for k in ('mean', 'var')}
  return {**affine(name, size), **running, f'{name}.num_batches_tracked': ()}


def resnet_shapes(blocks=(3, 4, 6, 3), planes=64, classes=1000):
  """What torchvision's state dict of a bottleneck ResNet has."""
  found = {'conv1.weight': (planes, 3, 7, 7), **batch_norm('bn1', planes)}
  inputs = planes
  for layer, number in enumerate(blocks):
    width = planes * 2**layer
    for block in range(number):
      name = f'layer{layer + 1}.{block}'
      for i, (out, ch, side) in enumerate(
          ((width, inputs, 1), (width, width, 3), (4 * width, width, 1)), 1
      ):
        found[f'{name}.conv{i}.weight'] = (out, ch, side, side)
        found |= batch_norm(f'{name}.bn{i}', out)
      if block == 0:
        shortcut = f'{name}.downsample'
        found[f'{shortcut}.0.weight'] = (4 * width, inputs, 1, 1)
        found |= batch_norm(f'{shortcut}.1', 4 * width)
      inputs = 4 * width
  return found | dense('fc', classes, inputs)


def vit_shapes(
    layers=12, width=768, mlp=3072, patch=16, side=224, classes=1000,
    names=('0', '3'),
):  # fmt: skip
  """What torchvision's state dict of a vision transformer has."""
  found = {
      'class_token': (1, 1, width),
      'conv_proj.weight': (width, 3, patch, patch),
      'conv_proj.bias': (width,),
      'encoder.pos_embedding': (1, (side // patch) ** 2 + 1, width),
  }
  for i in range(layers):
    layer = f'encoder.layers.encoder_layer_{i}'
    attention = f'{layer}.self_attention'
    found |= {
        **affine(f'{layer}.ln_1', width),
        f'{attention}.in_proj_weight': (3 * width, width),
        f'{attention}.in_proj_bias': (3 * width,),
        **dense(f'{attention}.out_proj', width, width),
        **affine(f'{layer}.ln_2', width),
        **dense(f'{layer}.mlp.{names[0]}', mlp, width),
        **dense(f'{layer}.mlp.{names[1]}', width, mlp),
    }
  found |= affine('encoder.ln', width)
  return found | dense('heads.head', classes, width)


def weights(shapes, seed=0):
  """Made up: of the size that keeps activations of order one."""
  rng = np.random.default_rng(seed)
  found = {}
  for name, shape in shapes.items():
    if name.endswith('num_batches_tracked'):
      found[name] = np.array(7)
    elif name.endswith('running_var'):
      found[name] = rng.uniform(0.5, 2, shape).astype(np.float32)
    else:
      scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.5
      found[name] = (scale * rng.standard_normal(shape)).astype(np.float32)
  return found


def conv(x, w, stride=1, padding=0):
  """As in PyTorch: `x [B, ch, H, W]`, `w [out, ch, side, side]`."""
  x = np.pad(x, [(0, 0)] * 2 + [(padding, padding)] * 2)
  side = w.shape[-1]
  height, width = ((n - side) // stride + 1 for n in x.shape[2:])
  found = 0.0
  for i in range(side):
    for j in range(side):
      rows = slice(i, i + stride * (height - 1) + 1, stride)
      columns = slice(j, j + stride * (width - 1) + 1, stride)
      found = found + np.einsum(
          'bchw,oc->bohw', x[:, :, rows, columns], w[:, :, i, j]
      )
  return found


def max_pool(x):
  padded = np.pad(
      x, [(0, 0)] * 2 + [(1, 1)] * 2, constant_values=-np.inf
  )
  height, width = ((n - 1) // 2 + 1 for n in x.shape[2:])
  return np.max([
      padded[:, :, i : i + 2 * height - 1 : 2, j : j + 2 * width - 1 : 2]
      for i in range(3) for j in range(3)
  ], axis=0)  # fmt: skip


def resnet_reference(w, x, blocks):
  """Logits of torchvision's ResNet in inference; `x [B, 3, H, W]`."""

  def norm(h, name):
    scale, bias, mean, var = (
        w[f'{name}.{k}'][:, None, None]
        for k in ('weight', 'bias', 'running_mean', 'running_var')
    )
    return (h - mean) / np.sqrt(var + 1e-5) * scale + bias

  def relu(h):
    return np.maximum(h, 0)

  h = max_pool(relu(norm(conv(x, w['conv1.weight'], 2, 3), 'bn1')))
  for layer, number in enumerate(blocks, 1):
    for block in range(number):
      name = f'layer{layer}.{block}'
      stride = 2 if layer > 1 and block == 0 else 1
      out = conv(h, w[f'{name}.conv1.weight'])
      out = relu(norm(out, f'{name}.bn1'))
      out = conv(out, w[f'{name}.conv2.weight'], stride, 1)
      out = relu(norm(out, f'{name}.bn2'))
      out = norm(conv(out, w[f'{name}.conv3.weight']), f'{name}.bn3')
      if block == 0:
        h = conv(h, w[f'{name}.downsample.0.weight'], stride)
        h = norm(h, f'{name}.downsample.1')
      h = relu(h + out)
  return h.mean((2, 3)) @ w['fc.weight'].T + w['fc.bias']


def vit_reference(w, x, layers, heads):
  """Logits of torchvision's VisionTransformer; `x [B, 3, H, W]`."""

  def norm(h, name):
    h = h - h.mean(-1, keepdims=True)
    h = h / np.sqrt(np.square(h).mean(-1, keepdims=True) + 1e-6)
    return h * w[f'{name}.weight'] + w[f'{name}.bias']

  def apply(h, name):
    return h @ w[f'{name}.weight'].T + w[f'{name}.bias']

  def gelu(h):
    return h * (1 + np.vectorize(math.erf)(h / math.sqrt(2))) / 2

  patches = w['conv_proj.weight']
  h = conv(x, patches, patches.shape[-1]) + w['conv_proj.bias'][:, None, None]
  width = h.shape[1]
  h = h.reshape(len(x), width, -1).transpose(0, 2, 1)
  token = np.repeat(w['class_token'], len(x), axis=0)
  h = np.concatenate([token, h], axis=1) + w['encoder.pos_embedding']
  for i in range(layers):
    name = f'encoder.layers.encoder_layer_{i}'
    of, attention = norm(h, f'{name}.ln_1'), f'{name}.self_attention'
    parts = []
    for part in range(3):
      rows = slice(part * width, (part + 1) * width)
      kernel = w[f'{attention}.in_proj_weight'][rows]
      parts.append(of @ kernel.T + w[f'{attention}.in_proj_bias'][rows])
    found = []
    for head in range(heads):
      columns = slice(head * width // heads, (head + 1) * width // heads)
      q, k, v = (part[..., columns] for part in parts)
      scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(width // heads))
      found.append(scores / scores.sum(-1, keepdims=True) @ v)
    h = h + apply(np.concatenate(found, -1), f'{attention}.out_proj')
    of = gelu(apply(norm(h, f'{name}.ln_2'), f'{name}.mlp.0'))
    h = h + apply(of, f'{name}.mlp.3')
  return apply(norm(h, 'encoder.ln')[:, 0], 'heads.head')


def variables_of(found):
  """`{'params/a/kernel': …}` as a network takes it."""
  tree = {}
  for name, value in found.items():
    *parents, leaf = name.split('/')
    inner = tree
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[leaf] = value
  return tree


def specs_of(net, x):
  """Path of each variable -> shape and dtype."""
  init = jax.eval_shape(net.init, jax.random.key(0), x)
  return {
      '/'.join(k.key for k in path): leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(init)
  }


BLOCKS = (1, 2)
TINY = {
    'torchvision_resnet': (
        ResNet(
            5, 50, blocks=BLOCKS, channels=(32, 64), padding='symmetric',
            preactivation=False,
        ),
        resnet_shapes(BLOCKS, planes=8, classes=5),
        lambda w, x: resnet_reference(w, x, BLOCKS),
    ),
    'torchvision_vit': (
        ViT(5, patch=4, layers=2, hidden=6, heads=2, intermediate=7),
        vit_shapes(2, 6, 7, patch=4, side=12, classes=5),
        lambda w, x: vit_reference(w, x, layers=2, heads=2),
    ),
}  # fmt: skip


@pytest.mark.parametrize('table', TINY)
def test_forward_pass(table):
  net, shapes, reference = TINY[table]
  w = weights(shapes)
  found = foreign.translate(w, foreign.rules_of(table), 'w.npz')
  x = np.random.default_rng(1).standard_normal((3, 12, 12, 3))
  x = (x * [[[[0.2]]], [[[1]]], [[[5]]]]).astype(np.float32)
  foreign.check_fit(found, specs_of(net, x))
  with jax.default_matmul_precision('highest'):
    logits, features = jax.jit(net.apply)(variables_of(found), x)
  expected = reference(
      {k: v.astype(np.float64) for k, v in w.items()},
      x.transpose(0, 3, 1, 2).astype(np.float64),
  )
  assert np.std(expected, axis=0).min() > 1e-2  # it depends on the image
  error = np.abs(logits - expected).max() / np.abs(expected).max()
  assert error < 1e-5, error
  kernel, bias = (found[f'params/out/{k}'] for k in ('kernel', 'bias'))
  np.testing.assert_allclose(
      features['pooled'] @ kernel + bias, logits, rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize(
    'table, net, shapes, parameters',
    [
        (
            'torchvision_resnet',
            ResNet(1000, padding='symmetric', preactivation=False),
            resnet_shapes(), 25_557_032,
        ),
        ('torchvision_vit', ViT(1000), vit_shapes(), 86_567_656),
        (
            'torchvision_vit', ViT(1000),
            vit_shapes(names=('linear_1', 'linear_2')), 86_567_656,
        ),
    ],
)  # fmt: skip
def test_full_size(table, net, shapes, parameters):
  """The numbers of parameters are those that torchvision states."""
  w = {
      name: np.broadcast_to(np.float32(0), shape)  # takes no memory
      for name, shape in shapes.items()
  }
  found = foreign.translate(w, foreign.rules_of(table), 'w.npz')
  specs = specs_of(net, jnp.zeros((1, 224, 224, 3)))
  foreign.check_fit(found, specs)
  trained = [v for k, v in specs.items() if k.startswith('params/')]
  assert sum(math.prod(leaf.shape) for leaf in trained) == parameters


@pytest.mark.slow
@pytest.mark.parametrize('table', TINY)
def test_an_epinet_on_a_base_of_torchvision(table, tmp_path):
  """By the config alone."""
  net, shapes, _ = TINY[table]
  w = weights(shapes)
  np.savez(tmp_path / 'w.npz', **w)
  config = load_config('configs/cifar10_epinet.py:18,smoke')
  config.dataset.shape, config.dataset.classes = (12, 12, 3), 5
  fields = {
      'torchvision_resnet': ('blocks', 'channels', 'padding', 'preactivation'),
      'torchvision_vit': ('patch', 'layers', 'hidden', 'heads', 'intermediate'),
  }[table]
  config.network.base = {
      'name': 'vit' if isinstance(net, ViT) else 'resnet', 'frozen': True,
      **{field: getattr(net, field) for field in fields},
  }  # fmt: skip
  config.init = {'file': '../w.npz', 'modules': {'base': table}}
  train_and_evaluate(config, tmp_path / 'run')
  base = Predictor.load(tmp_path / 'run').variables['frozen']['base']
  kernel = base['params']['out']['kernel']
  name = 'heads.head' if isinstance(net, ViT) else 'fc'
  np.testing.assert_array_equal(kernel, w[f'{name}.weight'].T)


@pytest.mark.slow
def test_vit_in_training():
  """Dropout and bfloat16; remat changes nothing."""
  net = ViT(
      3, patch=2, layers=1, hidden=4, heads=2, intermediate=5, dropout=0.5
  )
  x = jax.random.normal(jax.random.key(1), (2, 4, 4, 3))
  variables = jax.jit(net.init)(jax.random.key(0), x)
  params = dict(variables['params'], out={
      'kernel': jnp.eye(4, 3), 'bias': jnp.zeros(3),
  })  # fmt: skip

  def loss(params, remat=False, train=True, **fields):
    logits, features = net.clone(remat=remat, **fields).apply(
        {'params': params}, x, train=train, rngs={'dropout': jax.random.key(2)}
    )
    assert features['pooled'].dtype == logits.dtype == jnp.float32
    return jnp.square(promote_to_float32(logits)).sum()

  whole, again = (
      jax.jit(jax.value_and_grad(lambda p, r=r: loss(p, r)))(params)
      for r in (False, True)
  )
  jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
      whole, again,
  )  # fmt: skip
  kept = loss(params, train=False)
  assert abs(whole[0] - kept) > 1e-3 * abs(kept)
  half = loss(params, train=False, dtype='bfloat16')
  assert 0 < abs(half - kept) < 0.1 * abs(kept)


@pytest.mark.parametrize('fields', [{'patch': 3}, {'heads': 3}])
def test_vit_that_cannot_be(fields):
  net = ViT(**{'classes': 3, 'hidden': 4, 'patch': 2, 'heads': 2, **fields})
  with pytest.raises(ValueError, match='set patch to a divisor'):
    jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
