"""Losses of one function on one batch, and noise on its data."""

from flax_enn.losses.bootstrap import Bootstrap
from flax_enn.losses.data_noise import Noise
from flax_enn.losses.l2 import L2
from flax_enn.losses.l2_penalty import L2Penalty
from flax_enn.losses.mean_index import MeanIndex
from flax_enn.losses.nll import Nll
from flax_enn.losses.objective import Context, Loss, Objective
from flax_enn.losses.target_noise import TargetNoise
from flax_enn.losses.xent import Xent

__all__ = [
    'L2',
    'Bootstrap',
    'Context',
    'L2Penalty',
    'Loss',
    'MeanIndex',
    'Nll',
    'Noise',
    'Objective',
    'TargetNoise',
    'Xent',
]
