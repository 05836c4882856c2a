"""The step of the CIFAR-10 epinet on its frozen base, beside a plain one.

  python -m benchmarks.frozen_step --indices=1,5

`plain` is the form of enn in JAX alone, on the same weights and images: the
ResNet-18 with the statistics it has, once; then for each index the head and its
prior as in the paper (the index concatenated to the features, C·D outputs
contracted with it), cross-entropy, AdamW. `base` is our forward pass of the
base alone, `plain_base` theirs; `of_plain` what our step takes in times of it,
`cpu_of_plain` the same in time of the processor.
"""

import time
from typing import Any

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from benchmarks.heads import plain_head
from configs import cifar10_epinet
from flax_enn.networks.backbones import resnet

_INDICES = flags.DEFINE_list('indices', ['1', '5'], 'N of a step.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'Images.')
_SECONDS = flags.DEFINE_float('seconds', 1.0, 'Of each form in a round.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'In which each form has a turn.')


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
  """A convolution without a bias."""
  return jax.lax.conv_general_dilated(
      x,
      kernel,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
  )


def norm(x: jax.Array, params: Any, stats: Any) -> jax.Array:
  """Batch norm with the statistics it has."""
  factor = jax.lax.rsqrt(stats['var'] + 1e-5) * params['scale']
  return (x - stats['mean']) * factor + params['bias']


def plain_base(base: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Logits and pooled features of a thin ResNet."""
  params, stats = base['params'], base['batch_stats']
  h = conv(x, params['stem']['kernel'])
  h = jax.nn.relu(norm(h, params['stem_norm'], stats['stem_norm']))
  number = 0
  for group, blocks in enumerate(resnet.THIN[18]):
    for i in range(blocks):
      p, s = params[f'block_{number}'], stats[f'block_{number}']
      stride = 2 if group and not i else 1
      number += 1
      shortcut = h[:, ::stride, ::stride]
      h = conv(h, p['conv_0']['kernel'], stride)
      h = jax.nn.relu(norm(h, p['norm_0'], s['norm_0']))
      h = norm(conv(h, p['conv_1']['kernel']), p['norm_1'], s['norm_1'])
      more = (h.shape[-1] - shortcut.shape[-1]) // 2
      shortcut = jnp.pad(shortcut, [(0, 0)] * 3 + [(more, more)])
      h = jax.nn.relu(h + shortcut)
  pooled = h.mean((1, 2))
  return pooled @ params['out']['kernel'] + params['out']['bias'], pooled


def plain_step(frozen: Any, n: int, scale: float) -> tuple[Any, Any]:
  """An optimizer, and a compiled step of `(params, state, key, batch)`."""
  tx = optax.adamw(1e-3, weight_decay=1e-4)

  def loss(params, key, batch):
    logits, phi = plain_base(frozen['base'], batch.x)

    def at(z):
      prior = plain_head(frozen['prior']['params'], phi, z)
      out = logits + plain_head(params['head'], phi, z) + scale * prior
      losses = optax.softmax_cross_entropy_with_integer_labels(out, batch.y)
      return losses.mean()

    return jax.vmap(at)(jax.random.normal(key, (n, 20))).mean()

  @jax.jit
  def step(params, opt_state, key, batch):
    key, own = jax.random.split(key)
    value, gradients = jax.value_and_grad(loss)(params, own, batch)
    updates, opt_state = tx.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, key, value

  return tx, step


def row(n: int) -> None:
  """Measures a step at N indices."""
  config = cifar10_epinet.get_config('18')
  config.num_indices = n
  config = timing.fake(config, _BATCH_SIZE.value, (32, 32, 3), 10)
  training = timing.Training(config)
  variables, batch = training.variables, training.batch
  frozen, model = variables['frozen'], training.trainer.model
  z = model.network.indexer.mean_index
  base = jax.jit(lambda v, x: model.apply(v, x, z).base)
  theirs = jax.jit(lambda v, x: plain_base(v, x)[0])
  np.testing.assert_allclose(
      theirs(frozen['base'], batch.x), base(variables, batch.x), atol=1e-4
  )
  tx, step = plain_step(frozen, n, config.network.prior_scale)
  state = [variables['params'], tx.init(variables['params']), jax.random.key(0)]

  def plain() -> Any:
    *state[:], value = step(*state, batch)
    return value

  times = timing.side_by_side(
      {
          'step': training,
          'plain': plain,
          'base': lambda: base(variables, batch.x),
          'plain_base': lambda: theirs(frozen['base'], batch.x),
      },
      rounds=_ROUNDS.value,
      seconds=_SECONDS.value,
  )
  cpu = timing.side_by_side(
      {'step': training, 'plain': plain},
      rounds=_ROUNDS.value,
      seconds=_SECONDS.value,
      clock=time.process_time,
  )
  timing.print_row(
      f'CIFAR epinet, batch {_BATCH_SIZE.value}, {n} indices',
      **{f'{k}_ms': 1e3 * v for k, v in times.items()},
      of_plain=times['step'] / times['plain'],
      cpu_of_plain=cpu['step'] / cpu['plain'],
  )


def main(argv: list[str]) -> None:
  """Prints a row for each number of indices."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for n in map(int, _INDICES.value):
    row(n)


if __name__ == '__main__':
  app.run(main)
