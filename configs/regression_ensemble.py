"""Twenty networks with priors on a curve with a gap in its data.

  python train.py --config=configs/regression_ensemble.py --workdir=runs/curve

The report draws the functions of the members: close together on the data,
apart in the gap. Expected on the test split:

  rmse 0.104 (the noise alone is 0.1), nll -0.849, joint_nll -9.458
"""

import ml_collections

from flax_enn.training import default_config, parse_variants


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset = {'name': 'regression', 'holdout': 0.0}
  config.batch_size = 32
  config.num_steps = 2000
  member = {
      'name': 'mlp',
      'hiddens': (50, 50),
      'classes': 1,
      'nonzero_bias': True,
  }
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 20,
      'prior': {**member},
      'prior_scale': 2.0,
  }
  config.num_indices = 20
  config.eval.num_indices = 20
  config.eval.chunk = 20
  config.objectives = {
      'data': {
          'loss': {'name': 'l2'},
          'noise': {'bootstrap': {'name': 'bootstrap'}},
      }
  }
  config.optimizer.learning_rate = 3e-3
  if 'smoke' in variants:
    config.batch_size = 16
    config.num_steps = 2
    config.dataset = {
        'name': 'fake', 'shape': (1,), 'classes': 1, 'task': 'regression',
    }
    config.network.size = 2
    config.network.member.hiddens = (4, 4)
    config.network.prior.hiddens = (4, 4)
    config.update(num_indices=2)
    config.eval.update(num_indices=2, chunk=2)
  return config
