"""A thin ResNet on CIFAR-100: the base of `cifar100_epinet.py`.

  python train.py --config=configs/cifar100_resnet.py:18 \
    --workdir=runs/cifar100_resnet18

The recipe is that of `cifar10_resnet.py`, with as many classes as there are and
enn's images: cutout of 16x16 pixels in half of them.

Expected: not measured here.
"""

import ml_collections

from configs import cifar10_resnet


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:18` … `:110` choose the depth, `:smoke` a tiny form."""
  config = cifar10_resnet.get_config(arg)
  if config.dataset.name == 'fake':
    return config
  config.dataset.name = 'cifar100'
  config.dataset.cutout = 16  # enn's
  return config
