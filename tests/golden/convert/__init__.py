"""From enn's Haiku networks to ours: modules, and parameters or gradients.

`flax_enn.checkpoints.haiku` converts the parameters; here is which of our
modules each of enn's constructors is. Sizes and layout are those of a case's
parameters, options are its arguments; those that it leaves out are the defaults
of enn's constructors.
"""

from flax_enn.checkpoints.haiku import (
    dense,
    hiddens,
    index_dim,
    members,
    projected_mlp,
    widths,
)
from tests.golden.cases import Case
from tests.golden.convert import categorical, mlp, stochastic
from tests.golden.convert.converted import Converted
from tests.golden.convert.mlp import exposed

__all__ = [
    'NETWORKS',
    'Converted',
    'dense',
    'exposed',
    'hiddens',
    'index_dim',
    'members',
    'network_of_loss',
    'projected_mlp',
    'widths',
]

# What was recorded -> how it is converted.
NETWORKS = {
    'enn.networks.ProjectedMLP': mlp.projected,
    'enn.networks.ExposedMLP': mlp.exposed_mlp,
    'enn.networks.epinet.make_mlp_epinet': mlp.epinet_of_mlp,
    'enn.networks.epinet.MLPEpinetWithPrior': mlp.epinet_on_hidden,
    'neural_testbed epinet agent wiring: make_mlp_epinet +'
    ' make_mlp_ensemble_prior_fns + combine_functions_linear_in_index +'
    ' EnnWithAdditivePrior': mlp.epinet_with_additive_prior,
    'enn.networks.bert.make_head_enn': mlp.bert_head,
    'enn.networks.NetworkWithAdditivePrior': mlp.with_additive_prior,
    'enn.networks.Ensemble': mlp.ensemble,
    'enn.networks.MLPEnsembleMatchedPrior': mlp.ensemble,
    'enn.networks.make_einsum_ensemble_mlp_enn': mlp.ensemble,
    'enn.networks.make_ensemble_mlp_with_prior_enn': mlp.ensemble,
    'enn.networks.categorical_ensembles.CatMLPEnsemble': categorical.ensemble,
    'enn.networks.CatMLPEnsembleMlpPrior': categorical.ensemble,
    'enn.networks.CatMLPEnsembleGpPrior': categorical.ensemble,
    'enn.networks.MLPDropoutENN': stochastic.mlp_dropout,
    'enn.networks.GaussianNoiseMLP': stochastic.gaussian_noise_mlp,
    'enn.networks.make_bbb_enn': stochastic.bayes_by_backprop,
    'enn.networks.MLPHypermodel': stochastic.hypermodel,
    'enn.networks.MLPHypermodelWithHypermodelPrior': stochastic.hypermodel,
    'enn.networks.MLPHypermodelPriorIndependentLayers': stochastic.hypermodel,
    'enn.networks.IndexMLPEnn': stochastic.index_mlp,
    'enn.networks.IndexMLPWithGpPrior': stochastic.index_mlp,
}


def network_of_loss(case: Case) -> Converted:
  """The network a loss was recorded with: an epinet, or an ensemble."""
  is_epinet = 'base_mlp/~/linear_0' in case.params()
  kind = mlp.epinet_of_mlp if is_epinet else mlp.ensemble
  return kind(case)
