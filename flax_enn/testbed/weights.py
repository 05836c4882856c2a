"""Random weights: Bayes by backprop, dropout, and a Langevin path."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flax_enn.core import EpistemicNetwork
from flax_enn.losses import DiagonalKL, L2Penalty, MixtureKL, Objective
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.testbed.base import (
    Agent,
    Data,
    Prior,
    Sampler,
    adaptive_factor,
    data_objective,
    decayed,
    experiment,
    trained_agent,
)


def bbb(
    hiddens: Sequence[int] = (50, 50),
    sigma_1: float = 1.0,
    sigma_2: float = 0.75,
    mixture_scale: float = 1.0,
    kl_method: str = 'analytical',
    adaptive_scale: bool = True,
    output_scale: bool = False,
    num_indices: int = 8,
    learning_rate: float = 3e-3,
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """Bayes by backprop. `bbb.BBBConfig`.

  Args:
    hiddens: widths of the hidden layers.
    sigma_1: standard deviation of the prior.
    sigma_2: of its second Gaussian, where it is a mixture.
    mixture_scale: the share of the first.
    kl_method: `analytical`, or `sample_based` for a mixture.
    adaptive_scale: whether the divergence is times sqrt(temperature) · D.
    output_scale: whether logits are divided by the temperature.
    num_indices: in a step.
    learning_rate: of Adam.
    num_steps: of training.
    seed: of everything.
  """
  divergences: Mapping[str, Any] = {
      'analytical': DiagonalKL(sigma_1),
      'sample_based': MixtureKL(sigma_1, sigma_2, mixture_scale),
  }
  if kl_method not in divergences:
    raise ValueError(
        f'kl_method is {kl_method!r}; expected one of {sorted(divergences)}'
    )

  def network(prior: Prior) -> EpistemicNetwork:
    return BayesByBackprop(
        MLP(tuple(hiddens), prior.num_classes),
        temperature=prior.temperature if output_scale else 1.0,
    )

  def objectives(prior: Prior) -> dict[str, Objective]:
    weight = adaptive_factor(prior) if adaptive_scale else 1.0
    kl = Objective(divergences[kl_method], weight=weight)
    return {'data': data_objective(), 'kl': kl}

  return trained_agent(
      network,
      objectives,
      num_steps=num_steps,
      seed=seed,
      num_indices=num_indices,
      learning_rate=learning_rate,
  )


def dropout(
    hiddens: Sequence[int] = (100, 100),
    rate: float = 0.1,
    dropout_input: bool = False,
    length_scale: float = 1.0,
    regularization_tau: float = 1.0,
    exclude_bias_l2: bool = False,
    adaptive_weight_scale: bool = True,
    learning_rate: float = 1e-3,
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """Dropout whose mask is the index. `dropout.McDropoutConfig`.

  Args:
    hiddens: widths of the hidden layers.
    rate: probability that a unit is left out.
    dropout_input: whether inputs are left out too.
    length_scale: of the prior on weights (Gal and Ghahramani,
      arXiv:1506.02142).
    regularization_tau: their model precision; without adaptive_weight_scale.
    exclude_bias_l2: whether biases are left out of the penalty.
    adaptive_weight_scale: whether that is length_scale · sqrt(temperature) · D
      over the examples.
    learning_rate: of Adam.
    num_steps: of training.
    seed: of everything.
  """

  def objectives(prior: Prior) -> dict[str, Objective]:
    scale = length_scale**2 * (1 - rate) / (2 * regularization_tau)
    if adaptive_weight_scale:
      scale = length_scale * adaptive_factor(prior)
    penalty = L2Penalty(scale / prior.num_train, biases=not exclude_bias_l2)
    return {'data': data_objective(), 'size': Objective(penalty)}

  return trained_agent(
      lambda prior: MLPDropout(
          tuple(hiddens), prior.num_classes, rate, dropout_input
      ),
      objectives,
      num_steps=num_steps,
      seed=seed,
      num_indices=1,
      learning_rate=learning_rate,
  )


def sgmcmc(
    hiddens: Sequence[int] = (50, 50),
    learning_rate: float = 1e-4,
    prior_variance: float = 0.1,
    adaptive_prior_variance: bool = False,
    alg_temperature: float = 1.0,
    momentum_decay: float = 0.9,
    num_steps: int = 500_000,
    burn_in: int = 100_000,
    save_every: int = 1000,
    seed: int = 0,
) -> Agent:
  """Parameters along a Langevin path with momentum. `sgmcmc.SGMCMCConfig`.

  Chen, Fox and Guestrin, "Stochastic Gradient Hamiltonian Monte Carlo",
  arXiv:1402.4102, without a preconditioner. The index picks one of the states
  that were kept.

  Args:
    hiddens: widths of the hidden layers.
    learning_rate: epsilon, the step size.
    prior_variance: of every parameter.
    adaptive_prior_variance: whether it is doubled from 100 inputs on.
    alg_temperature: of the noise, over the examples.
    momentum_decay: how much of the momentum is kept.
    num_steps: of the path.
    burn_in: steps to the first state that is kept; of 0, save_every.
    save_every: steps from one kept state to the next.
    seed: of everything.
  """
  if not 0 <= burn_in < num_steps or not 1 <= save_every <= num_steps:
    raise ValueError(
        f'burn_in is {burn_in}, num_steps {num_steps} and save_every'
        f' {save_every}; expected a burn_in below num_steps, and save_every'
        ' from 1 to that'
    )

  def agent(data: Data, prior: Prior) -> Sampler:
    wide = adaptive_prior_variance and prior.input_dim >= 100
    variance = prior_variance * (2 if wide else 1)
    root = math.sqrt(learning_rate)
    temperature = alg_temperature / prior.num_train
    tx = optax.chain(
        optax.scale(root),
        optax.add_noise(2 * (1 - momentum_decay) * temperature, 0.0, seed),
        optax.trace(momentum_decay),
        optax.scale(-root),
    )
    network: EpistemicNetwork = Deterministic(
        MLP(tuple(hiddens), prior.num_classes)
    )
    objectives = decayed(prior, 1 / variance, adaptive=True)
    path = experiment(network, objectives, data, prior, seed, tx=tx)
    path.train(burn_in)
    kept = [path.state.params] if burn_in else []
    while path.step + save_every <= num_steps:
      path.train(save_every)
      kept.append(path.state.params)
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kept)

    def sampler(x: jax.Array, key: jax.Array) -> jax.Array:
      chosen = jax.random.randint(key, (), 0, len(kept))
      params = jax.tree.map(lambda leaf: leaf[chosen], states)
      index = network.indexer.mean_index
      return network.apply({'params': params}, x, index).preds

    return jax.jit(sampler)

  return agent
