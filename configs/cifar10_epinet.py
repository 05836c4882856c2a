"""The epinet of CIFAR-10, on the frozen base of `cifar10_resnet.py`.

  python train.py --config=configs/cifar10_resnet.py:18 \
    --workdir=runs/cifar10_resnet18
  python train.py --config=configs/cifar10_epinet.py:18 \
    --workdir=runs/cifar10_epinet18

The base is taken from the sibling folder `cifar10_resnet` + depth. The network
is enn's (`enn/checkpoints/cifar10.py`); how it was trained was never released,
so that the rest is ours.

Expected: not measured here. `fashion_mnist_epinet.py` is the same recipe where
two CPU cores can train it.
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.training import default_config, parse_variants, smoke

DEPTHS = ('18', '32', '44', '56', '110')


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:18` … `:110` choose the depth, `:smoke` a tiny form."""
  variants = parse_variants(arg, known=('smoke',), one_of=DEPTHS)
  (depth,) = variants & set(DEPTHS)
  config = default_config()
  config.dataset.update({
      'name': 'cifar10',
      'data_dir': config_dict.placeholder(str),  # TFDS's own
      'padding': 4,  # as for the base
      'flip': True,
      'cutout': 0,
  })
  # Ours: 25 epochs of AdamW at its usual rate; 8 indices cost little beside one
  # pass of the base.
  config.batch_size = 128
  config.num_steps = 10_000
  config.num_indices = 8
  config.optimizer.name = 'adamw'
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-4
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.network = {
      'name': 'epinet',
      'base': {
          'name': 'resnet',
          'depth': int(depth),
          'dtype': 'float32',
          'frozen': True,
      },
      # All enn's, whose conv prior has the scale 0 here: it is left out.
      'features': ('pooled',),
      'index_dim': 20,
      'hiddens': (50,),
      'base_scale': 1.0,
      'prior_scale': 4.0,
  }
  config.init = {
      'workdir': f'../cifar10_resnet{depth}',
      'step': 'latest',
      'modules': {'base': 'base'},
  }
  config.eval.num_indices = 1000  # enn's
  config.checkpoint.every = 1000  # ours
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 3), classes=10)
    config.network.base.update(blocks=(1, 1, 1), channels=(4, 8, 8))
    config.network.hiddens = (5,)
  return config
