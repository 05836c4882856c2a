"""The vision transformer as a base.

Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image
Recognition at Scale" (arXiv:2010.11929), in the form of torchvision, whose
weights it fits: `flax_enn/checkpoints/name_tables.py`.
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn.core import promote_to_float32
from flax_enn.field_checks import (
    check_not_negative,
    check_positive,
    check_share,
)
from flax_enn.networks.layers import Dtype

_norm = functools.partial(nn.LayerNorm, epsilon=1e-6)
_dense = functools.partial(
    nn.Dense, kernel_init=nn.initializers.xavier_uniform()
)


class ViT(nn.Module):
  """Patches of an image, transformer layers, a dense layer over one token.

  The defaults are ViT-B/16, of 86 million parameters. The last layer starts at
  zero.

  Attributes:
    classes: number of outputs C.
    patch: side of a patch, in pixels; it divides that of the image.
    layers: transformer layers.
    hidden: F, the width between layers.
    heads: of the attention; they divide `hidden`.
    intermediate: width inside a layer.
    dropout: part of the activations that training drops, as the step's stream
      says: not the index.
    remat: whether training computes what is inside a layer again in the
      backward pass, to save memory.
    dtype: of the computation up to the pooled features; parameters, pooled
      features and logits are float32.
  """

  classes: int
  patch: int = 16
  layers: int = 12
  hidden: int = 768
  heads: int = 12
  intermediate: int = 3072
  dropout: float = 0.0
  remat: bool = False
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'classes', 'patch', 'hidden', 'heads', 'intermediate')
    check_not_negative(self, 'layers')
    check_share(self, 'dropout')

  @nn.compact
  def __call__(
      self, x: jax.Array, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps images `[B, H, W, ch]` to logits `[B, C]` and features.

    The features are `layer_0`, `layer_1`, … (`[B, T, F]`; T is 1 and the number
    of patches), `pooled` (`[B, F]`, the class token at the end) and `logits`.

    Raises:
      ValueError: patches do not divide the image, or heads the width.
    """
    height, width = x.shape[1:3]
    if height % self.patch or width % self.patch or self.hidden % self.heads:
      raise ValueError(
          f'ViT got images of {height}x{width} pixels, and has `patch`'
          f' {self.patch} and {self.heads} `heads` for the width {self.hidden};'
          ' set patch to a divisor of the sides of the images, and heads to one'
          ' of hidden'
      )
    h = nn.Conv(
        self.hidden, (self.patch, self.patch), strides=self.patch,
        padding='VALID', dtype=self.dtype, name='patches',
    )(x)  # fmt: skip
    h = h.reshape(len(x), -1, self.hidden)
    zeros, normal = nn.initializers.zeros, nn.initializers.normal(0.02)
    token = self.param('class_token', zeros, (1, 1, self.hidden))
    token = jnp.broadcast_to(token, (len(x), 1, self.hidden))
    h = jnp.concatenate([token.astype(h.dtype), h], axis=1)
    h += self.param('positions', normal, (1, *h.shape[1:])).astype(h.dtype)
    h = nn.Dropout(self.dropout)(h, deterministic=not train)
    layer = nn.remat(Layer, static_argnums=(2,)) if self.remat else Layer
    features = {}
    for i in range(self.layers):
      name = f'layer_{i}'
      h = features[name] = layer(
          self.heads, self.intermediate, self.dropout, self.dtype, name=name
      )(h, train)
    # Of the token alone: a norm is of each place by itself.
    pooled = _norm(dtype=self.dtype, name='final_norm')(h[:, 0])
    pooled = features['pooled'] = promote_to_float32(pooled)
    logits = features['logits'] = nn.Dense(
        self.classes, kernel_init=zeros, name='out'
    )(pooled)
    return logits, features


class Layer(nn.Module):
  """Attention of every place to all, then a perceptron of each: pre-norm.

  The attributes are those of `ViT`.
  """

  heads: int
  intermediate: int
  dropout: float
  dtype: Dtype = None

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, T, F]` to `[B, T, F]`."""
    batch, places, width = x.shape

    def dense(size: int, name: str, h: jax.Array) -> jax.Array:
      return _dense(size, dtype=self.dtype, name=name)(h)

    def drop(h: jax.Array) -> jax.Array:
      return nn.Dropout(self.dropout)(h, deterministic=not train)

    h = _norm(dtype=self.dtype, name='attention_norm')(x)
    qkv = dense(3 * width, 'qkv', h).reshape(batch, places, 3, self.heads, -1)
    query, key, value = (qkv[:, :, i] for i in range(3))
    h = nn.dot_product_attention(
        query, key, value, force_fp32_for_softmax=True
    )
    x += drop(dense(width, 'attention', h.reshape(x.shape)))
    h = _norm(dtype=self.dtype, name='output_norm')(x)
    h = nn.gelu(dense(self.intermediate, 'intermediate', h), approximate=False)
    return x + drop(dense(width, 'output', drop(h)))
