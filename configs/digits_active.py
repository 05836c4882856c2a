"""Which digits to label? Active learning of an ensemble, against chance.

  python -m flax_enn.active_learning --config=configs/digits_active.py \
    --workdir=runs/digits_active

Ten networks with priors learn from 20 labelled digits, ask for ten more, are
trained anew, and so on to 80: seven minutes on two CPU cores. Expected on the
test split, mean and standard error over five seeds:

                    accuracy from 20 to 80 labels   after 80
  margin            0.804 +- 0.010                  0.903 +- 0.007
  information_gain  0.776 +- 0.008                  0.874 +- 0.010
  bald              0.773 +- 0.020                  0.869 +- 0.012
  uniform           0.758 +- 0.017                  0.847 +- 0.013

(The gain is about the labels of 32 other digits; a section of its name has
`targets` and more, see `flax_enn/active_learning/recipe.py`.)
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
  config.batch_size = 16  # at most as many as there are labels at first
  config.num_steps = 300  # of each round
  member = {'name': 'mlp', 'hiddens': (64,)}
  config.network = {
      'name': 'ensemble',
      'member': member,
      'size': 10,
      'priors': {'member': {'name': 'ensemble_prior', 'member': {**member}}},
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 3e-3
  config.active_learning = {
      'priorities': ('margin', 'information_gain', 'bald', 'uniform'),
      'start': 20,
      'per_round': 10,
      'rounds': 6,
      'seeds': 5,
  }
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 1), classes=10)
    config.network.member.hiddens = (4,)
    config.network.priors.member.member.hiddens = (4,)
    config.active_learning.update(start=16, per_round=2, rounds=2, seeds=1)
  return config
