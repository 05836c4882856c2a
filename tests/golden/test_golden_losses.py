"""Losses and their gradients against enn's, on its networks.

enn averages over the batch at once; here a loss is one number per example, and
the step weighs and averages, which `average` does here. Known differences, each
on purpose, which are taken out before the comparison:

- enn's bootstrap noise replaces the weights of a batch; here it scales them, so
  that those cases start from weights of 1.
- enn's ELBO, autoencoder, accuracy and prior losses ignore the weights of a
  batch; here the step weighs them like all others: these cases have weights of
  1.
- enn's Gaussian log-likelihood leaves its constant out.
- enn's weight decay counts priors; here they are frozen.
- enn averages batch statistics over indices, so that they depend on which
  members were drawn; here every member sees every batch. Loss and gradients of
  `average_xent_batchnorm_state` are compared, its new state is not.
"""

from collections.abc import Callable
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flax_enn import losses
from flax_enn.core import Batch
from flax_enn.likelihoods import Categorical, Gaussian, TwoHot
from flax_enn.sampling import over_index
from tests.golden import cases, convert, convert_losses
from tests.golden.convert import stochastic

CLASSES = Categorical(4)
NOISE = Gaussian(1, scale=0.5)  # of the recorded `awgn .5`
ATOMS = TwoHot(-2.0, 2.0, 7, shift=True)
# What enn leaves out of the log-loss.
CONSTANT = 0.5 * math.log(2 * math.pi * 0.5**2)


@dataclasses.dataclass(frozen=True)
class Recipe:
  """What one of enn's recorded constructors is here.

  Attributes:
    terms: losses, each with its weight.
    num_indices: drawn from `in::key`; 0 for the recorded index `in::z`.
    noise: on the batch, by the distribution in the manifest.
    weighted: whether enn looks at the weights of the batch.
    likelihood: of the model.
    constant: of ours, that enn leaves out.
    convert: the network.
    generated: standard deviation of generated inputs; 0 for the data.
  """

  terms: list[tuple[Any, float]]
  num_indices: int = 0
  noise: Callable[[Any], Any] = lambda distribution: None
  weighted: bool = True
  likelihood: Any = CLASSES
  constant: float = 0.0
  convert: Callable[..., Any] = convert.network_of_loss
  generated: float = 0.0


def bootstrap(distribution):
  return losses.Bootstrap(distribution, seed=3)


elbo = functools.partial(Recipe, weighted=False)
bbb = functools.partial(elbo, convert=convert_losses.bayes_by_backprop)
prior = functools.partial(Recipe, weighted=False, num_indices=4)
RECIPES = {
    'enn.losses.L2Loss': Recipe([(losses.L2(), 1)]),
    'enn.losses.XentLoss(4)': Recipe([(losses.Xent(), 1)]),
    'enn.losses.xent_loss_with_custom_labels(0.9*one_hot+0.025)': Recipe(
        [(losses.Xent(labels=0.9 * np.eye(4) + 0.025), 1)]
    ),
    'enn.losses.AccuracyErrorLoss(4)': Recipe(
        [(losses.AccuracyError(), 1)], weighted=False
    ),
    'enn.losses.Cat2HotRegression()': Recipe(
        [(losses.TwoHotXent(), 1)],
        likelihood=ATOMS,
        convert=convert_losses.with_categorical,
    ),
    'enn.losses.average_single_index_loss(XentLoss(4), 5)': Recipe(
        [(losses.Xent(), 1)], num_indices=5
    ),
    "enn.losses.add_l2_weight_decay(avg L2 x3, .3, 'prior' not in module)":
        Recipe(
            [(losses.L2(), 1), (losses.L2Penalty(0.3, biases=True), 1)],
            num_indices=3,
        ),
    'enn.losses.add_l2_weight_decay(avg L2 x3, callable scale .5*p)': Recipe(
        [(losses.L2(), 1), (losses.L2Penalty(lambda *_: 0.5**2), 1)],
        num_indices=3,
    ),
    'enn.losses.combine_single_index_losses_as_metric': Recipe(
        [(losses.Xent(), 1)]
    ),
    'enn.losses.add_data_noise(L2Loss(), BootstrapNoise(enn, dist, seed=3))':
        Recipe([(losses.L2(), 1)], noise=bootstrap),
    'enn.losses.add_data_noise(L2Loss(), GaussianTargetNoise(enn, .5, seed=3))':
        Recipe(
            [(losses.L2(), 1)],
            noise=lambda _: losses.TargetNoise(0.5, seed=3),
        ),
    'enn.losses.ElboLoss(get_categorical_loglike_fn(4),'
    ' get_analytical_diagonal_linear_model_prior_kl_fn(20, .7))': bbb(
        [(losses.Nll(), 1), (losses.DiagonalKL(0.7), 1)]
    ),
    'enn.losses.ElboLoss(..., temperature=.1, input_dim=3)': bbb(
        [(losses.Nll(), 1), (losses.DiagonalKL(0.7), math.sqrt(0.1) * 3)]
    ),
    'enn.losses.ElboLoss(get_awgn_loglike_fn(.5),'
    ' get_sample_based_model_prior_kl_fn(20, .7, .3, .6))': bbb(
        [(losses.Nll(), 1), (losses.MixtureKL(0.7, 0.3, 0.6), 1)],
        likelihood=NOISE,
        constant=CONSTANT,
    ),
    'enn.losses.ElboLoss(awgn .5,'
    ' get_analytical_linear_model_prior_kl_fn(20, .7))': elbo(
        [(losses.Nll(), 1), (losses.LinearKL(0.7), 1)],
        likelihood=NOISE,
        constant=CONSTANT,
        convert=stochastic.hypermodel,
    ),
    'enn.losses.RegressionPriorLoss(4, MatchingGaussianData(2.), .5)': prior(
        [(losses.PriorMatch(), 0.5)], generated=2.0
    ),
    'enn.losses.ClassificationPriorLoss(4)': prior(
        [(losses.PriorMatch(), 1)], generated=1.0
    ),
    'enn.losses.VaeLoss(get_log_likelihood_fn, latent_kl_fn) on'
    ' enn.extra.vae.make_vae_enn (hidden 6, latent 2)': elbo(
        [(None, 1), (losses.LatentKL(), 1)],  # the decoder's is in the case
        convert=convert_losses.autoencoder,
    ),
}  # fmt: skip
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


def average(ours, objective, batch, params, indices, likelihood=None):
  """The mean of one objective over examples and indices."""
  context = losses.Context(jnp.int32(0), 20, likelihood)
  ours = dataclasses.replace(ours, x=batch.x) if objective.inputs else ours

  def at(index):
    seen = batch
    for noise in objective.noise:
      seen = noise(seen, index, ours.network.indexer)
    values = objective.loss(
        ours.apply(params, index),
        seen,
        index=index,
        variables={**ours.variables, 'params': params},
        context=context,
    )
    return (values * seen.weight).mean() if values.ndim else values

  return objective.weight * over_index(at, indices).mean()


def keyed(raw):
  return jax.random.wrap_key_data(jnp.asarray(raw), impl='threefry2x32')


def sample(indexer, raw, n):
  """What enn's batched indexer draws: members are not stratified there."""
  keys = jax.vmap(jax.random.fold_in, (None, 0))(keyed(raw), jnp.arange(n))
  return jax.vmap(indexer.draw)(keys)


def check_gradients(ours, case, grads):
  recorded = ours.convert(case.tree('ret::grads'))
  jax.tree.map(cases.assert_close, ours.trained(grads), recorded)


@pytest.mark.parametrize('name', NAMES)
def test_golden_loss_and_gradients(name):
  case = cases.load_case(name)
  recipe = RECIPES[case.meta['ctor']]
  ours = recipe.convert(case)
  noise = recipe.noise(case.kwargs.get('distribution'))
  weighted = recipe.weighted and not isinstance(noise, losses.Bootstrap)
  classification = np.issubdtype(case['in::y'].dtype, np.integer)
  batch = make_batch(case, classification, weighted)
  key = case['in::key']
  inputs = None
  if recipe.generated:
    key, data_key = jax.random.key_data(jax.random.split(keyed(key)))
    inputs = losses.GaussianInputs(recipe.generated)
    batch = inputs(batch, keyed(data_key))
  decoder = 'gaussian' if 'decoder_log_var' in case.params() else 'bernoulli'
  objectives = [
      losses.Objective(
          losses.Reconstruction(decoder) if loss is None else loss,
          weight,
          inputs,
          noise=[noise] if noise else [],
      )
      for loss, weight in recipe.terms
  ]
  if recipe.num_indices:
    indices = sample(ours.network.indexer, key, recipe.num_indices)
  else:
    one = ours.index(case['in::z'])
    indices = jax.tree.map(lambda leaf: leaf[None], one)

  def value(params):
    return sum(
        average(ours, o, batch, params, indices, recipe.likelihood)
        for o in objectives
    )

  grad = jax.jit(jax.value_and_grad(value))
  loss, grads = grad(ours.variables['params'])
  expected = case['ret::loss'] + recipe.constant
  if 'callable' in case.meta['ctor']:
    frozen = jax.tree.leaves(ours.variables['frozen'])
    expected -= sum(np.square(leaf).sum() for leaf in frozen) / 4
  cases.assert_close(loss, expected)
  check_gradients(ours, case, grads)


def test_golden_combined_losses():
  """Cross-entropy, half the accuracy and a match of priors at once.

  Each draws its own indices from one key in enn, of which it takes as many as
  it asks for.
  """
  case = cases.load_case('losses/combine_losses_weighted')
  ours, plain = convert.network_of_loss(case), make_batch(case, True, False)
  batch, key = make_batch(case, True), case['in::key']
  split = jax.random.key_data(jax.random.split(keyed(key)))
  inputs = losses.GaussianInputs(1.0)
  terms = {
      'xent': (losses.Objective(losses.Xent()), batch, key, 3),
      'acc': (losses.Objective(losses.AccuracyError(), 0.5), plain, key, 3),
      'loss_2': (
          losses.Objective(losses.PriorMatch(), inputs=inputs),
          *(inputs(plain, keyed(split[1])), split[0], 4),
      ),
  }

  def value(params):
    logs = {}
    for name, (objective, seen, key, n) in terms.items():
      z = sample(ours.network.indexer, key, n)
      logs[name] = average(ours, objective, seen, params, z)
    return sum(logs.values()), logs

  grad = jax.jit(jax.value_and_grad(value, has_aux=True))
  (loss, logs), grads = grad(ours.variables['params'])
  for name, (objective, *_) in terms.items():
    recorded = case[f'ret::metrics::{name}:loss'] * objective.weight
    cases.assert_close(logs[name], recorded)
  cases.assert_close(loss, case['ret::loss'])
  check_gradients(ours, case, grads)


def test_golden_metric_losses():
  """Of one index: what is logged beside the loss that is trained."""
  case = cases.load_case('losses/combine_as_metric')
  ours = convert.network_of_loss(case)
  error = losses.Objective(losses.AccuracyError())
  batch, params = make_batch(case, True, False), ours.variables['params']
  index = ours.index(case['in::z'])[None]
  found = average(ours, error, batch, params, index)
  cases.assert_close(found, case['ret::metrics::acc:loss'])


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
  jax.tree.map(cases.assert_close, params, final)
