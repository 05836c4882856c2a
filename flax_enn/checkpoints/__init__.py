"""Saving, restoring and warm-starting train states, over Orbax."""

from flax_enn.checkpoints.fingerprint import fingerprint
from flax_enn.checkpoints.manager import Checkpoints
from flax_enn.checkpoints.reading import DamagedCheckpointError
from flax_enn.checkpoints.warm_start import check_init, warm_start

__all__ = [
    'Checkpoints',
    'DamagedCheckpointError',
    'check_init',
    'fingerprint',
    'warm_start',
]
