"""Training: from a config to a trained, saved and evaluated network."""

from flax_enn.config import default_config
from flax_enn.config_files import (
    load_config,
    on_features,
    parse_variants,
    smoke,
)
from flax_enn.training.state import TrainState, create_train_state
from flax_enn.training.step import train_step

__all__ = [
    'TrainState',
    'create_train_state',
    'default_config',
    'load_config',
    'on_features',
    'parse_variants',
    'smoke',
    'train_and_evaluate',
    'train_step',
]


def __getattr__(name: str):
  # The loop imports Orbax, Grain and TFDS, which a config file need not wait
  # for.
  if name == 'train_and_evaluate':
    from flax_enn.training.loop import train_and_evaluate

    return train_and_evaluate
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
