"""The epinet as an agent."""

from collections.abc import Sequence

from flax_enn.core import EpistemicNetwork
from flax_enn.losses import L2Penalty, Objective
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.testbed.base import Agent, Prior, data_objective, trained_agent

# Steps for many data, in times of those for few.
_MANY, _MORE = 500, 10


def epinet(
    index_dim: int = 8,
    hiddens: Sequence[int] = (50, 50),
    epinet_hiddens: Sequence[int] = (15, 15),
    prior_hiddens: Sequence[int] = (5, 5),
    prior_scale: float = 0.3,
    matched_prior_scale: float = 0.0,
    l2_weight_decay: float = 0.2,
    distribution: str = 'none',
    num_steps: int = 1000,
    seed: int = 0,
) -> Agent:
  """An epinet with networks of x as a prior. `epinet.EpinetConfig`.

  (Its prior loss, every 100,000 steps by default, is never reached there.)

  Args:
    index_dim: D of the index; as many indices are in a step.
    hiddens: widths of the base, whose last hidden layer the epinet reads.
    epinet_hiddens: widths of the epinet.
    prior_hiddens: widths of each of the D prior networks.
    prior_scale: of these, over the temperature.
    matched_prior_scale: of the epinet's own prior.
    l2_weight_decay: of all parameters, times (D_x / num_train)^0.7.
    distribution: of bootstrapping, see `Bootstrap`.
    num_steps: of training; ten times as many for more than 500 examples for
      each dimension of x.
    seed: of everything.
  """

  def network(prior: Prior) -> EpistemicNetwork:
    last = [f'hidden_{len(hiddens) - 1}'] if hiddens else []
    net = Epinet(
        base=MLP(tuple(hiddens), prior.num_classes),
        features=('inputs', *last),
        index_dim=index_dim,
        hiddens=tuple(epinet_hiddens),
        prior_scale=matched_prior_scale,
    )
    of_x = MLP(tuple(prior_hiddens), prior.num_classes, nonzero_bias=True)
    scale = prior_scale / prior.temperature
    return WithPrior(net, {'x': ScaledPrior(EnsemblePrior(of_x), scale)})

  def objectives(prior: Prior) -> dict[str, Objective]:
    ratio = (prior.input_dim / prior.num_train) ** 0.7
    penalty = L2Penalty(l2_weight_decay * ratio, biases=True)
    return {'data': data_objective(distribution), 'size': Objective(penalty)}

  return trained_agent(
      network,
      objectives,
      num_steps=lambda prior: (
          num_steps * _MORE
          if prior.num_train / prior.input_dim > _MANY
          else num_steps
      ),
      seed=seed,
      num_indices=index_dim,
  )
