"""Twenty networks with priors on a curve with a gap in its data.

  python train.py --config=configs/regression_ensemble.py --workdir=runs/curve

The report draws the functions of the members: close together on the data,
apart in the gap. Expected on the test split:

  rmse 0.104 (the noise alone is 0.1), nll -0.843, joint_nll -9.369
"""

import ml_collections

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.name = 'regression'
  config.batch_size = 32
  config.num_steps = 2000
  member = {
      'name': 'mlp',
      'hiddens': (50, 50),
      'nonzero_bias': True,
  }
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 20,
      'priors': {
          'member': {
              'name': 'scaled_prior',
              'net': {'name': 'ensemble_prior', 'member': {**member}},
              'scale': 2.0,
          },
      },
  }
  config.objectives = {
      'data': {
          'loss': {'name': 'l2'},
          'noise': {'bootstrap': {'name': 'bootstrap'}},
      }
  }
  config.optimizer.learning_rate = 3e-3
  if 'smoke' in variants:
    smoke(config, shape=(1,), classes=1, task='regression')
    config.network.size = 2
    config.network.member.hiddens = (4, 4)
    config.network.priors.member.net.member.hiddens = (4, 4)
  return config
