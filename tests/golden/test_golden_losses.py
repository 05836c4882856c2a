"""Losses and their gradients against enn's, on its networks.

enn averages over the batch at once; here a loss is one number per example, and
the step weighs and averages, which `average` does here. enn's bootstrap noise
replaces the weights of a batch; here it scales them, so that those cases start
from weights of 1.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import losses
from flax_enn.core import Batch
from flax_enn.sampling import over_index
from tests.golden import cases, convert


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What one of enn's recorded constructors is here.

  Attributes:
    loss: of examples.
    num_indices: drawn from `in::key`; 0 for the recorded index `in::z`.
    noise: on the batch, by the distribution in the manifest.
    penalty: added to the average.
  """

  loss: Any
  num_indices: int = 0
  noise: Any = lambda distribution: None
  penalty: Any = None


RECIPES = {
    'enn.losses.L2Loss': Recipe(losses.L2()),
    'enn.losses.XentLoss(4)': Recipe(losses.Xent()),
    'enn.losses.xent_loss_with_custom_labels(0.9*one_hot+0.025)': Recipe(
        losses.Xent(label_smoothing=0.1)
    ),
    'enn.losses.average_single_index_loss(XentLoss(4), 5)': Recipe(
        losses.Xent(), num_indices=5
    ),
    "enn.losses.add_l2_weight_decay(avg L2 x3, .3, 'prior' not in module)": (
        Recipe(
            losses.L2(),
            num_indices=3,
            penalty=losses.L2Penalty(0.3, biases=True),
        )
    ),
    'enn.losses.add_data_noise(L2Loss(), BootstrapNoise(enn, dist, seed=3))': (
        Recipe(
            losses.L2(),
            noise=lambda distribution: losses.Bootstrap(distribution, seed=3),
        )
    ),
    'enn.losses.add_data_noise(L2Loss(), GaussianTargetNoise(enn, .5, seed=3))':
        Recipe(
            losses.L2(), noise=lambda _: losses.TargetNoise(0.5, seed=3)
        ),
}
NAMES = cases.names(
    'losses/l2 l2_no_weights xent xent_no_weights xent_custom_labels_smoothed'
    ' average_single_index_xent_epinet',
    RECIPES,
)


def make_batch(case, classification, weighted=True) -> Batch:
  """enn's columns `[B, 1]` as our `[B]`."""
  y, n = case['in::y'], len(case['in::y'])
  weight = np.ones(n, np.float32)
  if weighted and 'in::weights' in case:
    weight = case['in::weights'][:, 0]
  return Batch(
      x=jnp.asarray(case['in::x']),
      y=y[:, 0] if classification else y.astype(np.float32),
      weight=weight,
      id=case['in::data_index'][:, 0],
      mask=np.ones(n, np.float32),
  )


def average(ours, objective, batch, params, indices):
  """The mean of one objective over examples and indices."""

  def at(index):
    seen = batch
    for noise in objective.noise:
      seen = noise(seen, index, ours.network.indexer)
    losses = objective.loss(ours.apply(params, index), seen, index=index)
    return (losses * seen.weight).mean()

  return over_index(at, indices).mean()


def sample(indexer, raw, n):
  """What enn's batched indexer draws: members are not stratified there."""
  key = jax.random.wrap_key_data(jnp.asarray(raw), impl='threefry2x32')
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n))
  return jax.vmap(indexer.draw)(keys)


@pytest.mark.parametrize('name', NAMES)
def test_golden_loss_and_gradients(name):
  case = cases.load_case(name)
  recipe = RECIPES[case.meta['ctor']]
  ours = convert.network_of_loss(case)
  noise = recipe.noise(case.kwargs.get('distribution'))
  bootstrap = isinstance(noise, losses.Bootstrap)
  batch = make_batch(
      case, isinstance(recipe.loss, losses.Xent), weighted=not bootstrap
  )
  objective = losses.Objective(recipe.loss, noise=[noise] if noise else [])
  if recipe.num_indices:
    indices = sample(
        ours.network.indexer, case['in::key'], recipe.num_indices
    )
  else:
    indices = ours.index(case['in::z'])[None]

  def value(params):
    total = average(ours, objective, batch, params, indices)
    if recipe.penalty:
      variables = {**ours.variables, 'params': params}
      total += recipe.penalty(None, batch, variables=variables)
    return total

  grad = jax.jit(jax.value_and_grad(value))
  loss, grads = grad(ours.variables['params'])
  cases.assert_close(loss, case['ret::loss'])
  recorded = ours.convert(case.tree('ret::grads'))
  jax.tree.map(cases.assert_close, grads, recorded)


# The recorded run, its loss and noise.
RUNS = {
    'training/matched_prior_ensemble_l2_bootstrap': (
        losses.L2(),
        losses.Bootstrap('bernoulli', seed=3),
    ),
    'training/epinet_mlp_xent': (losses.Xent(), None),
}


@pytest.mark.parametrize('name', RUNS)
def test_golden_training(name):
  """25 steps of Adam on the whole batch, with the recorded keys."""
  case = cases.load_case(name)
  loss, noise = RUNS[name]
  num_indices = case.kwargs['num_index_samples']
  ours = convert.network_of_loss(case)
  batch = make_batch(case, isinstance(loss, losses.Xent), weighted=not noise)
  objective = losses.Objective(loss, noise=[noise] if noise else [])
  tx = optax.adam(1e-2)

  @jax.jit
  def step(params, opt_state, key):
    indices = sample(ours.network.indexer, key, num_indices)
    value, grads = jax.value_and_grad(
        lambda p: average(ours, objective, batch, p, indices)
    )(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  params = jax.tree.map(jnp.asarray, ours.variables['params'])
  opt_state, values = tx.init(params), []
  for key in case['in::step_keys']:
    params, opt_state, value = step(params, opt_state, key)
    values.append(value)
  cases.assert_close(values, case['ret::losses'])
  final = ours.convert(case.tree('ret::final_params'))
  # Adam divides by gradients that are rounding where the true ones vanish.
  jax.tree.map(
      lambda got, expected: cases.assert_close(got, expected, rtol=1e-4),
      params,
      final,
  )
