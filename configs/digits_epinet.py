"""An epinet on digits, in the two stages of the ImageNet recipe.

  python train.py --config=configs/digits_base.py --workdir=runs/digits_base
  python train.py --config=configs/digits_epinet.py --workdir=runs/digits_epinet

The second run takes the base of the first, its sibling folder, and trains an
epinet beside it while it stays frozen. Both at once, from scratch:

  python train.py --config=configs/digits_epinet.py:joint --workdir=runs/joint

Expected on the test split (in brackets the range over the seeds 0, 1 and 2):

             base    epinet  epinet / base
  accuracy   0.975   0.975
  nll        0.118   0.096   0.82 (0.82 to 0.98)
  joint_nll  1.179   0.391   0.33 (0.33 to 0.41)

  :joint
  accuracy   0.961   0.958
  nll        0.155   0.154   0.99
  joint_nll  1.554   0.789   0.51

Hyper-parameters were chosen by cross-validation inside the training split.
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:joint` trains the base too, `:smoke` is a tiny form."""
  variants = parse_variants(arg, known=('joint', 'smoke'))
  config = default_config()
  config.dataset.name = 'digits'
  config.dataset.data_dir = config_dict.placeholder(str)  # TFDS's own
  config.batch_size = 64
  config.num_steps = 1000
  config.num_indices = 8
  config.network = {
      'name': 'epinet',
      'base': {
          'name': 'mlp',
          'hiddens': (64, 64),
          'dtype': 'float32',
          'frozen': 'joint' not in variants,
      },
      'features': ('hidden_1',),
      'index_dim': 10,
      'hiddens': (50,),
      'prior_scale': 1.5,
      'dtype': 'float32',
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-4
  if 'joint' not in variants:
    config.init = {
        'workdir': '../digits_base',
        'step': 'latest',
        'modules': {'base': 'base'},
    }
  config.checkpoint.every = 200
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 1), classes=10)
    config.network.base.hiddens = (8, 8)
    config.network.hiddens = (5,)
  return config
