"""Conventional networks, and ensembles of them with and without priors."""

from collections.abc import Sequence
import math

from flax_enn.core import EpistemicNetwork
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.testbed.base import Agent, Prior, decayed, trained_agent


def mlp(
    hiddens: Sequence[int] = (50, 50),
    l2_weight_decay: float = 1.0,
    adaptive_weight_scale: bool = True,
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """One network. `baselines.MLPConfig`.

  Args:
    hiddens: widths of the hidden layers.
    l2_weight_decay: weight of the squared parameters, over the examples.
    adaptive_weight_scale: whether that is times sqrt(temperature) · D.
    num_steps: of training.
    seed: of everything.
  """
  return trained_agent(
      lambda prior: Deterministic(MLP(tuple(hiddens), prior.num_classes)),
      lambda prior: decayed(prior, l2_weight_decay, adaptive_weight_scale),
      num_steps=num_steps,
      seed=seed,
  )


def logistic_regression(
    l2_weight_decay: float = 1.0,
    adaptive_weight_scale: bool = True,
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """A linear classifier. `baselines.LogisticRegressionConfig`; see `mlp`."""
  return mlp((), l2_weight_decay, adaptive_weight_scale, num_steps, seed)


def ensemble(
    size: int = 100,
    hiddens: Sequence[int] = (50, 50),
    l2_weight_decay: float = 1.0,
    adaptive_weight_scale: bool = True,
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """Networks that differ in their start. `ensemble.VanillaEnsembleConfig`.

  Args:
    size: number of members.
    hiddens: as in `mlp`, and so are those that follow.
    l2_weight_decay: shared by the members.
    adaptive_weight_scale: as in `mlp`.
    num_steps: of training.
    seed: of everything.
  """
  decay = l2_weight_decay / size
  return trained_agent(
      lambda prior: Ensemble(MLP(tuple(hiddens), prior.num_classes), size),
      lambda prior: decayed(prior, decay, adaptive_weight_scale),
      num_steps=num_steps,
      seed=seed,
  )


def ensemble_plus(
    size: int = 100,
    hiddens: Sequence[int] = (50, 50),
    prior_scale: float = 3.0,
    l2_weight_decay: float = 1.0,
    adaptive_weight_scale: bool = True,
    distribution: str = 'none',
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """An ensemble with a prior for each member. `ensemble_plus.EnsembleConfig`.

  Args:
    size: number of members.
    hiddens: as in `mlp`, of members and of their priors.
    prior_scale: of the priors, over sqrt(temperature).
    l2_weight_decay: shared by the members.
    adaptive_weight_scale: as in `mlp`.
    distribution: of bootstrapping, see `Bootstrap`.
    num_steps: of training.
    seed: of everything.
  """
  decay = l2_weight_decay / size

  def network(prior: Prior) -> EpistemicNetwork:
    member = MLP(tuple(hiddens), prior.num_classes, nonzero_bias=True)
    scale = prior_scale / math.sqrt(prior.temperature)
    matched = ScaledPrior(EnsemblePrior(member.clone()), scale)
    return WithPrior(Ensemble(member, size), {'member': matched})

  return trained_agent(
      network,
      lambda prior: decayed(
          prior, decay, adaptive_weight_scale, distribution
      ),
      num_steps=num_steps,
      seed=seed,
  )
