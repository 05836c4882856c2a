"""MobileNetV2 against its plain formula, and against what one computed."""

import io
import itertools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from flax_enn.checkpoints import foreign
from flax_enn.networks.backbones.mobilenet_v2 import MobileNetV2

TINY = {'groups': ((1, 4, 1, 1), (2, 6, 2, 2)), 'stem': 3, 'width': 7}


def quantised(variables, seed=0):
  """A file of weights as they are stored, numbered with gaps."""
  rng = np.random.default_rng(seed)
  found = {'graph': np.array('{}')}
  for name, layer in variables['params'].items():
    number = 2 * int(name.removeprefix('conv_')) + 3
    shape = layer['kernel'].shape
    found |= {
        f'w{number}': rng.integers(0, 256, shape, dtype=np.uint8),
        f'ws{number}': np.array([0.01 * number], np.float32),
        f'wz{number}': np.array([120 + number], np.int32),
        f'b{number}': rng.normal(size=layer['bias'].shape),
    }
  return found


def nested(found):
  tree = {}
  for name, value in found.items():
    *parents, leaf = name.split('/')
    at = tree
    for parent in parents:
      at = at.setdefault(parent, {})
    at[leaf] = np.asarray(value, np.float32)
  return tree


def conv(x, kernel, bias, stride=1):
  groups = x.shape[-1] // kernel.shape[2]
  return bias + jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), 'SAME', feature_group_count=groups,
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )  # fmt: skip


def six(h):
  return jnp.clip(h, 0, 6)


def test_plain_formula_with_weights_of_a_table():
  x = jax.random.normal(jax.random.key(0), (2, 9, 8, 3))
  net = MobileNetV2(5, **TINY)
  shapes = jax.eval_shape(net.init, jax.random.key(0), x)
  weights = quantised(shapes)
  found = nested(
      foreign.translate(weights, foreign.rules_of('mobilenet_v2'), Path('w'))
  )
  assert jax.tree.map(np.shape, found) == jax.tree.map(
      lambda s: s.shape, dict(shapes)
  )
  logits, features = net.apply(found, x)

  numbers = sorted(int(k[1:]) for k in weights if k[0] == 'b')
  layers = []
  for n in numbers:
    kernel = weights[f'w{n}'] - np.float32(weights[f'wz{n}'])
    layers.append((kernel * weights[f'ws{n}'], np.float32(weights[f'b{n}'])))
  stem, dw0, p0, e1, dw1, p1, e2, dw2, p2, last, head = layers
  h = six(conv(x, *stem, stride=2))
  h = conv(six(conv(h, *dw0)), *p0)
  h = conv(six(conv(six(conv(h, *e1)), *dw1, stride=2)), *p1)
  h += conv(six(conv(six(conv(h, *e2)), *dw2)), *p2)
  pooled = six(conv(h, *last)).mean((1, 2))
  np.testing.assert_allclose(features['pooled'], pooled, rtol=1e-5, atol=1e-5)
  expected = pooled @ head[0][0, 0] + head[1]
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_photos():
  """Nearly the features that the quantised network computed of them."""
  data = Path(os.environ.get('FLAX_ENN_DATA') or 'nowhere')
  path = data / 'mobilenet_v2/mobilenet_v2_1.0_224_quant.npz'
  if not path.exists():
    pytest.skip('FLAX_ENN_DATA names no folder with mobilenet_v2')
  found = nested(
      foreign.translate(
          foreign.read(path), foreign.rules_of('mobilenet_v2'), path
      )
  )
  with np.load(data / 'imagenet_sample_1000/index.npz') as index:
    ends, label = index['offsets'][:33], index['label'][:32]
  content = (data / 'imagenet_sample_1000/images_256.bin').read_bytes()
  images = []
  for a, b in itertools.pairwise(ends):
    image = Image.open(io.BytesIO(content[a:b])).convert('RGB')
    left, top = (image.width - 224) // 2, (image.height - 224) // 2
    images.append(image.crop((left, top, left + 224, top + 224)))
  x = np.stack([np.asarray(image) for image in images]) / 127.5 - 1
  logits, features = jax.jit(MobileNetV2(1001).apply)(found, x)
  features_of = data / 'mobilenet_v2/features_imagenet_sample_1000.npz'
  with np.load(features_of) as stored:
    q, scale, zero = (stored[k] for k in ('feat_q', 'scale', 'zero'))
  expected = (q[:32].astype(np.float32) - zero) * scale
  pooled = np.asarray(features['pooled'])
  assert np.corrcoef(pooled.ravel(), expected.ravel())[0, 1] > 0.95
  assert (np.asarray(logits).argmax(-1) - 1 == label).mean() > 0.6
