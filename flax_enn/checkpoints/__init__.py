"""Saving, restoring and warm-starting train states, over Orbax."""

from flax_enn.checkpoints.checkpointer import Checkpointer
from flax_enn.checkpoints.errors import DamagedCheckpointError, StorageError
from flax_enn.checkpoints.fingerprint import fingerprints
from flax_enn.checkpoints.warm_start import check_init, warm_start

__all__ = [
    'Checkpointer',
    'DamagedCheckpointError',
    'StorageError',
    'check_init',
    'fingerprints',
    'warm_start',
]
