"""Saving, restoring and warm-starting train states, over Orbax."""

from flax_enn.checkpoints.checkpointer import Checkpointer
from flax_enn.checkpoints.fingerprint import fingerprint
from flax_enn.checkpoints.layout import DamagedCheckpointError
from flax_enn.checkpoints.warm_start import check_init, warm_start

__all__ = [
    'Checkpointer',
    'DamagedCheckpointError',
    'check_init',
    'fingerprint',
    'warm_start',
]
