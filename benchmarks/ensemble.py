"""An ensemble's training step beside those of as many single networks.

  python -m benchmarks.ensemble --size=10

Four forms of the same gradient step: members vmapped, one after the other in a
loop (`map`), unrolled in one program, and as many programs of one member, which
the others are compared with. `library` is the whole step of the library, in the
form that it chooses for the platform (unrolled convolutions on CPUs), compared
with as many of its steps for a single network.

The ResNets take minutes a step in the first two forms on a CPU:

  python -m benchmarks.ensemble --only=resnet18 --forms=unrolled,library
"""

import functools

from absl import app, flags
import jax
import jax.numpy as jnp
import optax

from benchmarks import timing
from configs import cifar10_ensemble, digits_ensemble
from flax_enn import backend
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.backbones.resnet import ResNet

_SIZE = flags.DEFINE_integer('size', 10, 'Members.')
_ONLY = flags.DEFINE_list('only', ['resnet18', 'convnet', 'mlp'], 'Which.')
_FORMS = flags.DEFINE_list(
    'forms', ['vmap', 'map', 'unrolled', 'library'], 'Those to measure.'
)
_ROUNDS = flags.DEFINE_integer(
    'rounds', 5, 'In which each form has a turn.', lower_bound=1
)

# name -> member, shape of x, batch size.
MEMBERS = {
    'resnet18': (ResNet(10, depth=18, dtype='bfloat16'), (32, 32, 3), 128),
    'convnet': (ConvNet(10), (8, 8, 1), 64),
    'mlp': (MLP(hiddens=(512, 512), classes=10), (64,), 64),
}


def forms(member, shape, batch_size, size):
  """The step of K members in four forms, on stacked variables."""
  keys = jax.random.split(jax.random.key(0), size)
  x = jax.random.normal(jax.random.key(1), (batch_size, *shape))
  y = jax.random.randint(jax.random.key(2), (batch_size,), 0, 10)
  stacked = jax.jit(
      jax.vmap(lambda key: member.init({'params': key}, x, train=False))
  )(keys)

  def update(variables):
    """One gradient step of one member."""
    params = variables['params']
    rest = {k: v for k, v in variables.items() if k != 'params'}

    def loss(params):
      (logits, _), updated = member.apply(
          {'params': params, **rest}, x, train=True, mutable=list(rest)
      )
      logits = logits.astype(jnp.float32)
      losses = optax.softmax_cross_entropy_with_integer_labels(logits, y)
      return losses.mean(), updated

    gradients, updated = jax.grad(loss, has_aux=True)(params)
    params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradients)
    return {'params': params, **updated}

  def at(tree, k):
    return jax.tree.map(lambda leaf: leaf[k], tree)

  def unrolled(tree):
    updated = [update(at(tree, k)) for k in range(size)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *updated)

  single = jax.jit(update)
  singles = [at(stacked, k) for k in range(size)]
  return {
      'vmap': functools.partial(jax.jit(jax.vmap(update)), stacked),
      'map': functools.partial(
          jax.jit(lambda tree: jax.lax.map(update, tree)), stacked
      ),
      'unrolled': functools.partial(jax.jit(unrolled), stacked),
      'singles': lambda: [single(variables) for variables in singles],
  }


def library(name, shape, batch_size, size):
  """The library's step of K members, and of one network."""
  if name == 'resnet18':
    config = cifar10_ensemble.get_config()
  else:
    config = digits_ensemble.get_config()
    del config.network.priors
    if name == 'mlp':
      config.network.member = {'name': 'mlp', 'hiddens': (512, 512)}
  config.network.size = size
  config = timing.fake(config, batch_size, shape, 10)
  ensemble = timing.Training(config)
  base = config.network.member
  config.network = {'name': 'deterministic', 'base': base}
  config.num_indices = None
  if 'noise' in config.objectives.data:
    del config.objectives.data.noise
  single = timing.Training(config)
  return {
      'library': ensemble,
      'library_singles': lambda: [single() for _ in range(size)],
  }


def main(argv: list[str]) -> None:
  """Prints a row for each kind of member."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  if jax.default_backend() == 'cpu':
    backend.keep_freed_memory()  # as train.py
  size = _SIZE.value
  for name in _ONLY.value:
    member, shape, batch_size = MEMBERS[name]
    plain = forms(member, shape, batch_size, size)
    chosen = {k: plain[k] for k in (*_FORMS.value, 'singles') if k in plain}
    if 'library' in _FORMS.value:
      chosen |= library(name, shape, batch_size, size)
    took = timing.side_by_side(chosen, rounds=_ROUNDS.value)
    took['singles_ms'] = 1e3 * took['singles']
    for form in _FORMS.value:
      of = 'library_singles' if form == 'library' else 'singles'
      took[f'{form}_ms'] = 1e3 * took[form]
      took[form] /= took[of]
    del took['singles']
    took.pop('library_singles', None)
    timing.print_row(f'{name}, {size} members, batch {batch_size}', **took)


if __name__ == '__main__':
  app.run(main)
