"""The ImageNet epinet at 1,000 indices beside one pass of its base.

  python -m benchmarks.evaluation --batch_sizes=8,64 --chunks=8,50,250

`logits` sums the logits of all indices, so that they are computed and none is
kept; `evaluation` is the whole step of an evaluation: statistics of marginal
and joint predictions of the epinet and of its base. Both are in times of the
base's forward pass alone. `gemm` is a reference for `logits`: the train and the
prior head joined, their kernels contracted with all indices of a chunk at once;
`paper` is the form of the paper and of enn, C·D outputs for every index, which
are contracted with it.
"""

import functools

from absl import app, flags
import jax
import jax.numpy as jnp

from benchmarks import timing
from benchmarks.heads import plain_head, sum_of_logits
from configs import imagenet_epinet
from flax_enn.evaluation.scorer import Scorer

_NUM_INDICES = flags.DEFINE_integer('num_indices', 1000, 'N.')
_BATCH_SIZES = flags.DEFINE_list('batch_sizes', ['8', '64'], 'Images.')
_CHUNKS = flags.DEFINE_list('chunks', ['8', '50'], 'Indices at once.')
_DEPTH = flags.DEFINE_string('depth', '50', 'Of the ResNet.')
_FORMS = flags.DEFINE_list(
    'forms', ['logits', 'evaluation', 'gemm', 'paper'], 'What is measured.'
)
_ROUNDS = flags.DEFINE_integer(
    'rounds', 5, 'Few, and one form at a time, for CPUs.'
)
_SIDE = flags.DEFINE_integer('side', 224, 'Side of the images in pixels.')

CLASSES, FEATURES = 1000, 2048


def gemm(head, prior, phi, indices, chunk):
  """The sum of the logits of both heads over all indices `[B, C]`."""
  trees = head, prior
  first = jnp.concatenate([t['layer_0']['h']['kernel'] for t in trees], 1)
  bias = jnp.concatenate([t['layer_0']['h']['bias'] for t in trees])
  of_z = jnp.concatenate([t['layer_0']['z']['kernel'] for t in trees], 1)
  kernel = jnp.concatenate([t['out']['kernel'] for t in trees])  # [H, C, D]
  kernel = kernel.transpose(2, 0, 1)  # [D, H, C]
  out_bias = head['out']['bias'] + prior['out']['bias']  # [C, D]
  h = phi @ first + bias

  def step(total, z):
    hidden = jax.nn.relu(h[None] + (z @ of_z)[:, None])  # [n, B, H]
    kernels = jnp.tensordot(z, kernel, 1)  # [n, H, C]
    logits = hidden @ kernels + (z @ out_bias.T)[:, None]
    return total + logits.sum(0), None

  zeros = jnp.zeros((len(phi), kernel.shape[-1]))
  chunks = indices.reshape(-1, chunk, indices.shape[-1])
  return jax.lax.scan(step, zeros, chunks)[0]


def paper(head, prior, phi, indices, chunk):
  """The same sum, each head in the form of the paper."""

  def at(z):
    return plain_head(head, phi, z) + plain_head(prior, phi, z)

  def step(total, z):
    return total + jax.vmap(at)(z).sum(0), None

  zeros = jnp.zeros((len(phi), CLASSES))
  chunks = indices.reshape(-1, chunk, indices.shape[-1])
  return jax.lax.scan(step, zeros, chunks)[0]


def row(batch_size: int) -> None:
  """Measures everything for one batch size."""
  n, shape = _NUM_INDICES.value, (_SIDE.value, _SIDE.value, 3)
  config = imagenet_epinet.get_config(_DEPTH.value)
  training = timing.Training(timing.fake(config, batch_size, shape, CLASSES))
  model, batch = training.trainer.model, training.batch
  variables, indexer = training.variables, model.network.indexer
  indices = indexer.sample(jax.random.key(0), n)
  base = jax.jit(lambda v, x: model.apply(v, x, indexer.mean_index).base)
  logits = jax.jit(
      functools.partial(sum_of_logits, model), static_argnames='chunk'
  )
  phi = jax.random.normal(jax.random.key(1), (batch_size, FEATURES))
  heads = variables['params']['head'], variables['frozen']['prior']['params']
  references = {
      fn.__name__: jax.jit(fn, static_argnums=4) for fn in (gemm, paper)
  }

  times = {'base': functools.partial(base, variables, batch.x)}
  for chunk in map(int, _CHUNKS.value):
    scorer = Scorer(
        model=model, batch_size=batch_size, num_indices=n, chunk=chunk
    )
    times |= {
        f'logits {chunk}': functools.partial(
            logits, variables, batch.x, indices, chunk=chunk
        ),
        f'evaluation {chunk}': functools.partial(
            scorer.step, variables, indices, batch
        ),
        **{
            f'{name} {chunk}': functools.partial(
                fn, *heads, phi, indices, chunk
            )
            for name, fn in references.items()
        },
    }
  chosen = {k: v for k, v in times.items() if k.split()[0] in _chosen()}
  took = timing.side_by_side(chosen, rounds=_ROUNDS.value)
  first = took.pop('base')
  timing.print_row(
      f'ResNet-{_DEPTH.value}, batch {batch_size}, {n} indices',
      base_ms=1e3 * first,
      **{name: seconds / first for name, seconds in took.items()},
  )


def _chosen() -> set[str]:
  return {'base', *_FORMS.value}


def main(argv: list[str]) -> None:
  """Prints a row for each batch size."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  for batch_size in map(int, _BATCH_SIZES.value):
    row(batch_size)


if __name__ == '__main__':
  app.run(main)
