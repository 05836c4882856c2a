"""Which pairs to ask about? Double Thompson sampling of a reward epinet.

  python -m flax_enn.active_learning --config=configs/preferences_active.py \
    --workdir=runs/preferences_active

The pool has 8,000 answers on pairs of 100 items. An epinet learns the rewards
of the items from 20 of them, asks for ten more, is trained anew, and so on to
100. `double_thompson` asks about the item that one function of the epinet
prefers and the one that another prefers (arXiv:2402.00396), `bald` about the
pair whose answer depends most on the function, `uniform` about any. Ten minutes
on two CPU cores. Expected, mean and standard error over ten seeds:

                   regret from 20 to 100 labels   after 100
  double_thompson  0.019 +- 0.011                 0.006 +- 0.006
  bald             0.076 +- 0.011                 0.051 +- 0.023
  uniform          0.088 +- 0.011                 0.057 +- 0.012

                   accuracy from 20 to 100 labels   after 100
  double_thompson  0.764 +- 0.009                   0.776 +- 0.004
  bald             0.774 +- 0.004                   0.801 +- 0.006
  uniform          0.777 +- 0.005                   0.804 +- 0.003

The regret is of the item of highest mean reward: how much more often the best
item is preferred to another one, by all answers of the pool. The accuracy is of
pairs of new items, on the test split: who looks for the best item learns less
of all others. How much there is to gain depends on the items: with those of
`config.dataset.seed = 2`, of which many are almost as good as the best, the
regret is 0.015 +- 0.007, that of `uniform` 0.023 +- 0.011 (five seeds).
"""

import ml_collections

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.update(name='preferences', n_train=8000, items=100)
  config.batch_size = 16  # at most as many as there are labels at first
  config.num_steps = 300  # of each round
  config.num_indices = 8
  config.network = {
      'name': 'preference',
      'net': {
          'name': 'epinet',
          'classes': 1,  # the reward
          'base': {'name': 'mlp', 'hiddens': (32,), 'classes': 1},
          'features': ('inputs', 'hidden_0'),
          'index_dim': 8,
          'hiddens': (16,),
      },
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 3e-3
  config.optimizer.weight_decay = 3.0
  config.active_learning = {
      'priorities': ('double_thompson', 'bald', 'uniform'),
      'start': 20,
      'per_round': 10,
      'rounds': 8,
      'seeds': 10,
  }
  if 'smoke' in variants:
    smoke(config, shape=(2, 8), classes=2)
    config.network.net.base.hiddens = (4,)
    config.network.net.hiddens = (4,)
    config.active_learning.update(start=16, per_round=2, rounds=2, seeds=1)
  return config
