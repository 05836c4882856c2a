"""A reward epinet, from which of two items was preferred.

  python train.py --config=configs/preferences_epinet.py \
    --workdir=runs/preferences

An epinet has the reward of one item; of two, the difference of their rewards is
the log-odds of the answer (Bradley and Terry). Which pairs to ask about, so
that few answers tell the best item: `configs/preferences_active.py`.

Expected on the test split (in brackets the range over the seeds 0, 1 and 2; of
the true rewards, accuracy is 0.85 and nll 0.34):

             base    epinet  epinet / base
  accuracy   0.831   0.826
  nll        0.411   0.401   0.98 (0.97 to 0.98)
  joint_nll  4.11    2.24    0.55 (0.53 to 0.55)
"""

import ml_collections

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.name = 'preferences'
  config.batch_size = 64
  config.num_steps = 1000
  config.num_indices = 8
  config.network = {
      'name': 'preference',
      'net': {
          'name': 'epinet',
          'classes': 1,  # the reward
          'base': {'name': 'mlp', 'hiddens': (50, 50), 'classes': 1},
          'features': ('inputs', 'hidden_1'),
          'index_dim': 10,
          'hiddens': (50,),
          'prior_scale': 3.0,
      },
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-2
  if 'smoke' in variants:
    smoke(config, shape=(2, 8), classes=2)
    config.network.net.base.hiddens = (8, 8)
    config.network.net.hiddens = (5,)
  return config
