"""The epinet of CIFAR-100, on the frozen base of `cifar100_resnet.py`.

  python train.py --config=configs/cifar100_resnet.py:18 \
    --workdir=runs/cifar100_resnet18
  python train.py --config=configs/cifar100_epinet.py:18 \
    --workdir=runs/cifar100_epinet18

The recipe is that of `cifar10_epinet.py`, with enn's scales and its conv prior
(`enn/checkpoints/cifar100.py`).

Expected: not measured here.
"""

import ml_collections

from configs import cifar10_epinet


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:18` … `:110` choose the depth, `:smoke` a tiny form."""
  config = cifar10_epinet.get_config(arg)
  smoke = config.dataset.name == 'fake'
  if not smoke:
    config.dataset.name = 'cifar100'
    config.dataset.cutout = 16  # enn's
    config.init.workdir = config.init.workdir.replace('cifar10_', 'cifar100_')
  config.network.prior_scale = 0.5  # enn's
  config.network.priors = {
      'conv': {
          # All enn's.
          'name': 'conv_prior',
          'channels': (4, 8, 4),
          'kernels': (5, 5, 5),
          'strides': (2, 2, 2),
          'resize': 8 if smoke else 32,
          'scale': 0.5,
      },
  }
  return config
