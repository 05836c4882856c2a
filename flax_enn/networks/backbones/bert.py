"""BERT, the transformer encoder of text, as a base.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for
Language Understanding" (arXiv:1810.04805), as in enn (`enn/networks/bert`).
"""

from collections.abc import Mapping
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

# Fields of the large configuration; the defaults of `Bert` are the small one.
LARGE: Mapping[str, int] = {
    'layers': 24, 'hidden': 1024, 'heads': 16, 'intermediate': 4096,
}  # fmt: skip

_EPSILON = 1e-12  # of the layer norms
# Heads are folded into the last axis of the kernels, as in the checkpoints.
_dense = functools.partial(
    nn.Dense, kernel_init=nn.initializers.truncated_normal(0.02)
)
_norm = functools.partial(nn.LayerNorm, epsilon=_EPSILON)


class Bert(nn.Module):
  """Embeddings, transformer layers, and a dense layer over the first word.

  The defaults are the small configuration of 110 million parameters; `LARGE`
  has the fields of the large one, of 340 million.

  Attributes:
    classes: number of outputs C.
    vocab_size: pieces of words that there are.
    layers: transformer layers.
    hidden: F, the width between layers.
    heads: of the attention; they divide `hidden`.
    intermediate: width inside a layer.
    positions: pieces in an input, at most.
    segments: sentences in an input, at most.
    dropout: part of the activations that training drops, as the step's stream
      says: not the index.
    attention_dropout: the same of the attention.
    words: whether `words` is among the features: logits `[B, T, V]` of the
      piece at each place, for training on masked text.
    remat: whether training computes what is inside a layer again in the
      backward pass, to save memory.
    dtype: of the computation up to the pooled features; parameters, pooled
      features and logits are float32.
  """

  classes: int
  vocab_size: int = 30_522
  layers: int = 12
  hidden: int = 768
  heads: int = 12
  intermediate: int = 3072
  positions: int = 512
  segments: int = 2
  dropout: float = 0.1
  attention_dropout: float = 0.1
  words: bool = False
  remat: bool = False
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'vocab_size', 'hidden', 'heads')
    check_positive(self, 'intermediate', 'positions', 'segments')
    check_not_negative(self, 'classes', 'layers')  # 0: features alone
    check_share(self, 'dropout', 'attention_dropout')

  @nn.compact
  def __call__(
      self, x: Mapping[str, jax.Array], *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps texts of T pieces of words to logits `[B, C]` and features.

    The features are `layer_0`, `layer_1`, … (`[B, T, F]`), `pooled` (`[B, F]`),
    `logits`, and `words` if they are asked for.

    Args:
      x: `token_ids` `[B, T]`, `segment_ids` `[B, T]` and `input_mask` `[B, T]`,
        1 for a piece and 0 for padding.
      train: whether to drop activations.

    Raises:
      ValueError: the texts are too long, or heads do not divide the width.
    """
    length = x['token_ids'].shape[-1]
    if length > self.positions or self.hidden % self.heads:
      raise ValueError(
          f'Bert got texts of {length} pieces, and has {self.positions}'
          f' `positions` and {self.heads} `heads` for the width {self.hidden};'
          ' set positions to the length of the texts or more, and heads to a'
          ' divisor of hidden'
      )
    embed = self._embed(self.vocab_size, 'word_embedding')
    h = embed(x['token_ids'])
    h += self._embed(self.segments, 'segment_embedding')(x['segment_ids'])
    positions = self._embed(self.positions, 'position_embedding')
    h += positions(jnp.arange(length))
    h = _norm(dtype=self.dtype, name='embedding_norm')(h)
    h = nn.Dropout(self.dropout)(h, deterministic=not train)
    layer = nn.remat(Layer, static_argnums=(3,)) if self.remat else Layer
    features = {}
    for i in range(self.layers):
      h = layer(
          self.heads,
          self.intermediate,
          self.dropout,
          self.attention_dropout,
          self.dtype,
          name=f'layer_{i}',
      )(h, x['input_mask'], train)
      features[f'layer_{i}'] = h
    if self.words:
      words = _dense(self.hidden, dtype=self.dtype, name='words_dense')(h)
      words = _norm(dtype=self.dtype, name='words_norm')(nn.gelu(words))
      bias = self.param('words_bias', nn.initializers.zeros, self.vocab_size)
      features['words'] = promote_to_float32(embed.attend(words)) + bias
    first = promote_to_float32(h[:, 0])
    pooled = features['pooled'] = nn.tanh(
        _dense(self.hidden, name='pooler')(first)
    )
    logits = features['logits'] = Classifier(
        self.classes, self.dropout, name='out'
    )(pooled, train)
    return logits, features

  def _embed(self, number: int, name: str) -> nn.Embed:
    init = nn.initializers.truncated_normal(0.02)
    return nn.Embed(
        number, self.hidden, dtype=self.dtype, embedding_init=init, name=name
    )


class Layer(nn.Module):
  """Attention of every piece to all others, then a perceptron of each.

  The attributes are those of `Bert`.
  """

  heads: int
  intermediate: int
  dropout: float
  attention_dropout: float
  dtype: Dtype = None

  @nn.compact
  def __call__(
      self, x: jax.Array, mask: jax.Array, train: bool
  ) -> jax.Array:
    """Maps `[B, T, F]`, with a mask `[B, T]`, to `[B, T, F]`."""
    width = x.shape[-1]

    def dense(size: int, name: str, h: jax.Array) -> jax.Array:
      return _dense(size, dtype=self.dtype, name=name)(h)

    def drop(rate: float, h: jax.Array) -> jax.Array:
      return nn.Dropout(rate)(h, deterministic=not train)

    query, key, value = (
        dense(width, name, x).reshape(*x.shape[:2], self.heads, -1)
        for name in ('query', 'key', 'value')
    )
    scores = jnp.einsum('bqhf,bkhf->bhqk', query, key)
    scores *= (width // self.heads) ** -0.5
    # In float32: bfloat16 has too few digits for a softmax over many pieces.
    scores = promote_to_float32(scores) - 1e30 * (1 - mask[:, None, None])
    attention = drop(self.attention_dropout, nn.softmax(scores))
    h = jnp.einsum('bhqk,bkhf->bqhf', attention.astype(value.dtype), value)
    h = dense(width, 'attention', h.reshape(x.shape))
    h = _norm(dtype=self.dtype, name='attention_norm')(
        drop(self.dropout, h) + x
    )
    out = nn.gelu(dense(self.intermediate, 'intermediate', h))
    out = drop(self.dropout, dense(width, 'output', out))
    return _norm(dtype=self.dtype, name='output_norm')(out + h)


class Classifier(nn.Module):
  """Dropout and a dense layer: enn's `make_baseline_head_enn`.

  Attributes:
    classes: number of outputs C.
    dropout: part of the inputs that training drops.
  """

  classes: int
  dropout: float = 0.1

  @nn.compact
  def __call__(self, h: jax.Array, train: bool) -> jax.Array:
    """Maps `[B, F]` to logits `[B, C]`."""
    h = nn.Dropout(self.dropout)(h, deterministic=not train)
    return nn.Dense(
        self.classes, kernel_init=nn.initializers.normal(0.02), name='dense'
    )(h)
