"""Losses of one function on one batch, and noise on its data."""

from flax_enn.losses.accuracy_error import AccuracyError
from flax_enn.losses.bootstrap import Bootstrap
from flax_enn.losses.data_noise import Noise
from flax_enn.losses.diagonal_kl import DiagonalKL
from flax_enn.losses.distill_mean import DistillMean
from flax_enn.losses.distill_variance import DistillVariance
from flax_enn.losses.flow_kl import FlowKL
from flax_enn.losses.gaussian_inputs import GaussianInputs
from flax_enn.losses.l2 import L2
from flax_enn.losses.l2_penalty import L2Penalty
from flax_enn.losses.latent_kl import LatentKL
from flax_enn.losses.linear_kl import LinearKL
from flax_enn.losses.mean_index import MeanIndex
from flax_enn.losses.mixture_kl import MixtureKL
from flax_enn.losses.nll import Nll
from flax_enn.losses.objective import Context, Loss, Objective
from flax_enn.losses.prior_match import PriorMatch
from flax_enn.losses.reconstruction import Reconstruction
from flax_enn.losses.target_noise import TargetNoise
from flax_enn.losses.two_hot_xent import TwoHotXent
from flax_enn.losses.vbll_bound import VbllBound
from flax_enn.losses.xent import Xent

__all__ = [
    'L2',
    'AccuracyError',
    'Bootstrap',
    'Context',
    'DiagonalKL',
    'DistillMean',
    'DistillVariance',
    'FlowKL',
    'GaussianInputs',
    'L2Penalty',
    'LatentKL',
    'LinearKL',
    'Loss',
    'MeanIndex',
    'MixtureKL',
    'Nll',
    'Noise',
    'Objective',
    'PriorMatch',
    'Reconstruction',
    'TargetNoise',
    'TwoHotXent',
    'VbllBound',
    'Xent',
]
