"""The log-loss of an input under what a decoder says of it."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from flax_enn.core import Batch, Output, promote_to_float32
from flax_enn.losses.required import extras

DECODERS = ('bernoulli', 'gaussian')


@dataclasses.dataclass(frozen=True)
class Reconstruction:
  """-log p(x | code), summed over the entries of x, in nats.

  Of a Bernoulli decoder `extra['out_mean']` are logits of x = 1, of a Gaussian
  one it is the mean and `extra['out_log_var']` the log-variance (Kingma and
  Welling, arXiv:1312.6114, appendix C).

  >>> out = Output(jnp.zeros((4, 3)), extra={'out_mean': jnp.zeros((4, 3))})
  >>> Reconstruction('bernoulli')(out, batch).round(2)  # 3 log 2
  Array([2.08, 2.08, 2.08, 2.08], dtype=float32)

  Attributes:
    decoder: `'bernoulli'` for x in [0, 1], or `'gaussian'`.
  """

  decoder: str = 'gaussian'

  def __post_init__(self):
    if self.decoder not in DECODERS:
      raise ValueError(
          f'decoder is {self.decoder!r}; known: {", ".join(DECODERS)}'
      )

  def __call__(self, outputs: Output, batch: Batch, **_) -> jax.Array:
    """`[B]` losses of `batch.x` `[B, ...]`."""
    names = ('out_mean', 'out_log_var')[: 1 + (self.decoder == 'gaussian')]
    found = extras(outputs, names, type(self).__name__)
    mean, *log_vars = map(promote_to_float32, found)
    x = promote_to_float32(batch.x).reshape(len(mean), -1)
    if x.shape != mean.shape:
      raise ValueError(
          f'Reconstruction found inputs of {x.shape[-1]} entries beside outputs'
          f' {list(mean.shape)}; a decoder must emit one for each entry'
      )
    if self.decoder == 'bernoulli':
      return (jnp.logaddexp(0.0, mean) - x * mean).sum(-1)
    (log_var,) = log_vars
    squares = jnp.square(x - mean) * jnp.exp(-log_var)
    return 0.5 * (squares + log_var + math.log(2 * math.pi)).sum(-1)
