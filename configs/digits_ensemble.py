"""Ten networks on digits, each with a random prior of its own (ensemble+).

  python train.py --config=configs/digits_ensemble.py --workdir=runs/ensemble

The members are small convolutional networks, better on images than the
perceptron of `digits_base.py`: compare the two with care. Expected on the test
split:

  accuracy 0.981, nll 0.037, joint_nll 0.204
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.name = 'digits'
  config.dataset.data_dir = config_dict.placeholder(str)  # TFDS's own
  config.batch_size = 64
  config.num_steps = 1000
  member = {
      'name': 'convnet',
      'channels': (16, 32),
      'hidden': 64,
      'dtype': 'float32',
  }
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 10,
      'priors': {'member': {'name': 'ensemble_prior', 'member': {**member}}},
  }
  config.objectives = {
      'data': {
          'loss': {'name': 'xent'},
          'noise': {'bootstrap': {'name': 'bootstrap'}},
      }
  }
  config.optimizer.learning_rate = 3e-3
  config.optimizer.weight_decay = 1e-4
  config.checkpoint.every = 200
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 1), classes=10)
    config.network.member.update(channels=(2, 3), hidden=4)
    config.network.priors.member.member.update(channels=(2, 3), hidden=4)
  return config
