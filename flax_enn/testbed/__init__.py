"""Agents for DeepMind's neural_testbed, with its published defaults.

  agent = testbed.ensemble_plus()
  sampler = agent(data, prior)    # trains
  logits = sampler(x, key)        # [B, C] of one function draw; can be traced

`data` has `x [N, D]` and `y [N, 1]`, integer labels; `prior` is the testbed's
`PriorKnowledge`: `input_dim`, `num_train`, `num_classes`, `temperature` … Only
their attributes are read: neural_testbed itself is not needed. Osband et al.,
"The Neural Testbed", arXiv:2110.04629; hyper-parameters are the defaults of
`neural_testbed/agents/factories`. What is not offered is as by default there:
no number of steps by the ratio of data to dimensions (`batch_strategy`), priors
over sqrt(temperature) (`temp_scale_prior`), as many indices in a step as
members (`override_index_samples`), no preconditioner.
"""

from flax_enn.testbed.baselines import (
    average_class_probs,
    prior_only,
    uniform_class_probs,
)
from flax_enn.testbed.ensembles import (
    ensemble,
    ensemble_plus,
    logistic_regression,
    mlp,
)
from flax_enn.testbed.epinets import epinet
from flax_enn.testbed.hypermodels import hypermodel
from flax_enn.testbed.weights import (
    bbb,
    dropout,
    sgmcmc,
)

__all__ = [
    'average_class_probs',
    'bbb',
    'dropout',
    'ensemble',
    'ensemble_plus',
    'epinet',
    'hypermodel',
    'logistic_regression',
    'mlp',
    'prior_only',
    'sgmcmc',
    'uniform_class_probs',
]
