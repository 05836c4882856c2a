"""Losses of one function on one batch, and the noise on what it is shown."""

from flax_enn.losses.bootstrap import Bootstrap
from flax_enn.losses.l2 import L2
from flax_enn.losses.l2_penalty import L2Penalty
from flax_enn.losses.noise import Noise
from flax_enn.losses.objective import Inputs, Loss, Objective
from flax_enn.losses.target_noise import TargetNoise
from flax_enn.losses.xent import Xent

__all__ = [
    'L2',
    'Bootstrap',
    'Inputs',
    'L2Penalty',
    'Loss',
    'Noise',
    'Objective',
    'TargetNoise',
    'Xent',
]
