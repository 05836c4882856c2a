"""A hypermodel as an agent."""

from collections.abc import Sequence
import math

from flax_enn.core import EpistemicNetwork
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.priors.independent_layers_prior import (
    IndependentLayersPrior,
)
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.testbed.base import Agent, Prior, decayed, trained_agent


def hypermodel(
    index_dim: int = 6,
    hiddens: Sequence[int] = (50, 50),
    prior_hiddens: Sequence[int] = (10,),
    prior_scale: float = 1.0,
    scale_kernels: bool = False,
    l2_weight_decay: float = 1.0,
    adaptive_weight_scale: bool = True,
    distribution: str = 'none',
    num_indices: int = 16,
    learning_rate: float = 1e-3,
    num_steps: int = 2000,
    seed: int = 0,
) -> Agent:
  """A linear hypermodel with a prior. `hypermodel.HypermodelConfig`.

  Args:
    index_dim: D of the index, whose norm is about 1.
    hiddens: widths of the base, whose weights are generated.
    prior_hiddens: widths of the prior, layer by layer of its own index.
    prior_scale: over sqrt(temperature).
    scale_kernels: see `Hypermodel`.
    l2_weight_decay: as in `mlp`.
    adaptive_weight_scale: as in `mlp`.
    distribution: of bootstrapping, see `Bootstrap`.
    num_indices: in a step.
    learning_rate: of Adam.
    num_steps: of training.
    seed: of everything.
  """

  def network(prior: Prior) -> EpistemicNetwork:
    net = Hypermodel(
        base=MLP(tuple(hiddens), prior.num_classes),
        index_dim=index_dim,
        index_scale=1.0,
        scale_kernels=scale_kernels,
    )
    scale = prior_scale / math.sqrt(prior.temperature)
    layers = IndependentLayersPrior(tuple(prior_hiddens))
    return WithPrior(net, {'layers': ScaledPrior(layers, scale)})

  return trained_agent(
      network,
      lambda prior: decayed(
          prior, l2_weight_decay, adaptive_weight_scale, distribution
      ),
      num_steps=num_steps,
      seed=seed,
      num_indices=num_indices,
      learning_rate=learning_rate,
  )
