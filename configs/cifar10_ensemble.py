"""32 thin ResNets on CIFAR-10, trained side by side: a deep ensemble.

  python train.py --config=configs/cifar10_ensemble.py --workdir=runs/ensemble32

Each member is the ResNet-18 of `cifar10_resnet.py` (Lakshminarayanan et al.,
arXiv:1612.01474), and all of them see the same batches. With 8 devices or more,
let each hold some of the members and nothing of the others:

  --config.mesh.index=8

Expected: not measured here. For one such network of 20 layers He et al. (see
there) report 0.9125 accuracy; these have 14. docs/scale.md says what the 32
cost on a pod.
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.training import default_config, parse_variants, smoke


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.dataset.update({
      'name': 'cifar10',
      'data_dir': config_dict.placeholder(str),  # TFDS's own
      'padding': 4,
      'flip': True,
      'cutout': 0,
  })
  # As the single network.
  config.batch_size = 128
  config.num_steps = 64_000
  config.optimizer = {
      'name': 'sgd',
      'learning_rate': 0.1,
      'momentum': 0.9,
      'nesterov': True,
      'weight_decay': 1e-4,
      'clip_norm': 0.0,
      'schedule': {'name': 'cosine', 'warmup_steps': 400},
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.network = {
      'name': 'ensemble',
      'member': {
          'name': 'resnet',
          'depth': 18,
          'bn_momentum': 0.9,  # enn's
          'dtype': 'bfloat16',  # ours: 32 of them are not cheap
      },
      'size': 32,
  }
  config.eval.every = 8000  # ours
  config.checkpoint.every = 2000  # ours
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 3), classes=10)
    config.network.member.update(blocks=(1, 1, 1), channels=(4, 8, 8))
  return config
