"""Distillation of mean and variance to the mean index, from a config."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from flax_enn.sampling import over_index
from flax_enn.training.trainer import Trainer
from tests import tiny


def config():
  """Two moons, with prior matching and distillation on generated inputs."""
  inputs = {'name': 'gaussian_inputs', 'scale': 2.0}
  both = {'mean': {'name': 'mean_index'}, 'drawn': None}
  distil = {'inputs': inputs, 'indices': both, 'across': True}
  return tiny.epinet(
      network={
          'name': 'index_mlp',
          'hiddens': (20,),
          'index_dim': 4,
          'variance_hidden': 16,
          'extra_log_var': True,
          'priors': {
              'inputs': {'name': 'mlp_prior', 'hiddens': (8,), 'scale': 3.0}
          },
      },
      num_indices=16,
      objectives={
          'data': {'loss': {'name': 'xent'}},
          'match': {
              'loss': {'name': 'prior_match'}, 'inputs': inputs, 'weight': 0.01
          },
          'mean': {'loss': {'name': 'distill_mean'}, **distil},
          'variance': {'loss': {'name': 'distill_variance'}, **distil},
      },
      num_steps=300,
      **{
          'optimizer.learning_rate': 1e-2,
          'optimizer.schedule': {'name': 'constant', 'warmup_steps': 0},
      },
  )  # fmt: skip


def test_the_mean_index_learns_the_spread_of_the_probabilities():
  """One forward at it says what many indices say: their mean and variance."""
  trainer = Trainer.from_config(config(), jax.devices()[:1])
  network = trainer.model.network
  x = 2 * jax.random.normal(jax.random.key(0), (256, 2))
  indices = network.indexer.sample(jax.random.key(1), 256)

  @jax.jit
  def spread(variables):
    def at(index):
      out = network.apply(variables, x, index)
      return jax.nn.softmax(out.preds), out.extra['log_var']

    probs, _ = over_index(at, indices)
    mean, log_var = at(network.indexer.mean_index)
    return probs.mean(0), probs.var(0), mean, log_var

  with trainer.use_mesh():
    state, step = trainer.create_state(), trainer.jit_step()
    before = spread(state.variables)
    for _, batch in zip(range(300), trainer.train_batches()):
      state, _ = step(state, batch)
    after = spread(state.variables)
  for result in (before, after):
    assert all(np.isfinite(part).all() for part in result)

  def gaps(result):
    mean, variance, found, log_var = result
    of_variance = jnp.abs(log_var - jnp.log(variance)).mean()
    return jnp.abs(found - mean).mean(), of_variance

  (mean, variance), (start, wide) = gaps(after), gaps(before)
  assert mean < 0.8 * start and variance < 0.4 * wide
  _, variance, _, log_var = after
  assert scipy.stats.spearmanr(log_var[:, 0], variance[:, 0])[0] > 0.9
