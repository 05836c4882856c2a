"""An epinet and its base on two moons, to see where it does not know.

  python train.py --config=configs/two_moons_epinet.py --workdir=runs/two_moons

The report maps the disagreement of the indices over the plane: none on the two
moons, and the more the farther their boundary is from both. Expected on the
test split (in brackets the range over the seeds 0, 1 and 2):

             base    epinet  epinet / base
  accuracy   0.995   0.998
  nll        0.0106  0.0052  0.49 (0.49 to 0.74)
  joint_nll  0.106   0.022   0.21 (0.21 to 0.28)

How much the scale of the prior matters, over two seeds:

  python launch/sweep.py --config=configs/two_moons_epinet.py \
    --workdir=runs/two_moons_sweep --parallel=2
"""

import ml_collections

from flax_enn.sweep import product
from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.name = 'two_moons'
  config.batch_size = 64
  config.num_steps = 2000
  config.num_indices = 8
  config.network = {
      'name': 'epinet',
      'base': {'name': 'mlp', 'hiddens': (50, 50)},
      'features': ('inputs', 'hidden_1'),
      'index_dim': 10,
      'hiddens': (50,),
      'prior_scale': 5.0,
      # A prior of the input varies where the base's features do not.
      'priors': {
          'inputs': {
              'name': 'mlp_prior',
              'hiddens': (20, 20),
              'scale': 10.0,
          }
      },
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 3e-3
  config.optimizer.weight_decay = 1e-2
  if 'smoke' in variants:
    smoke(config, shape=(2,), classes=2)
    config.network.base.hiddens = (8, 8)
    config.network.hiddens = (5,)
    config.network.priors.inputs.hiddens = (4,)
  return config


def sweep() -> list[dict[str, object]]:
  """Scales of the prior, two seeds each."""
  return product({'network.prior_scale': (1.5, 5.0, 15.0), 'seed': range(2)})
