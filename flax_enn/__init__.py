"""flax_enn: neural networks that tell ambiguity from ignorance, in Flax.

An epistemic neural network is a function `f(x, z)` of an input and an epistemic
index. Fixing z fixes one plausible function; the spread over z is what the
network does not know. Training is in `flax_enn.training`, data in
`flax_enn.data`; what is here needs JAX and Flax alone.
"""

from flax_enn.core import (
    Batch,
    EpistemicNetwork,
    Example,
    Index,
    Indexer,
    Output,
    Variables,
)
from flax_enn.indexers import (
    DirichletIndexer,
    EnsembleIndexer,
    GaussianIndexer,
    GaussianWithUnitIndexer,
    PrngIndexer,
    ScaledGaussianIndexer,
)
from flax_enn.likelihoods import Categorical, Gaussian, Likelihood, TwoHot
from flax_enn.losses import (
    L2,
    Bootstrap,
    L2Penalty,
    Nll,
    Objective,
    TargetNoise,
    Xent,
)
from flax_enn.networks.backbones.convnet import ConvNet
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.deterministic import Deterministic
from flax_enn.networks.ensemble import Ensemble
from flax_enn.networks.epinet import Epinet
from flax_enn.networks.frozen import Frozen
from flax_enn.networks.layers import IndexContract, IndexDense, ProjectedMLP
from flax_enn.networks.priors.ensemble_prior import EnsemblePrior
from flax_enn.networks.priors.mlp_prior import MLPPrior
from flax_enn.networks.priors.scaled_prior import ScaledPrior
from flax_enn.networks.with_prior import WithPrior
from flax_enn.nnx_bridge import as_nnx
from flax_enn.sampling import over_index, reduce_over_index

__version__ = '0.1.0'

__all__ = [
    'L2',
    'MLP',
    'Batch',
    'Bootstrap',
    'Categorical',
    'ConvNet',
    'Deterministic',
    'DirichletIndexer',
    'Ensemble',
    'EnsembleIndexer',
    'EnsemblePrior',
    'Epinet',
    'EpistemicNetwork',
    'Example',
    'Frozen',
    'Gaussian',
    'GaussianIndexer',
    'GaussianWithUnitIndexer',
    'Index',
    'IndexContract',
    'IndexDense',
    'Indexer',
    'L2Penalty',
    'Likelihood',
    'MLPPrior',
    'Nll',
    'Objective',
    'Output',
    'PrngIndexer',
    'ProjectedMLP',
    'ScaledGaussianIndexer',
    'ScaledPrior',
    'TargetNoise',
    'TwoHot',
    'Variables',
    'WithPrior',
    'Xent',
    'as_nnx',
    'over_index',
    'reduce_over_index',
]
