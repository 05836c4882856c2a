"""A thin ResNet on CIFAR-10: the base of `cifar10_epinet.py`.

  python train.py --config=configs/cifar10_resnet.py:18 \
    --workdir=runs/cifar10_resnet18

The depth is that of enn's names: 18, 32, 44, 56 or 110. enn published its bases
without the code that trained them: the network and the normalisation of images
are enn's, the rest is the recipe of He et al. (arXiv:1512.03385, section 4.2),
with what is said below.

Expected: not measured here; 0.925 (depth 32) to 0.936 (110) is what that paper
reports.
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
      # He et al.; enn crops 24x24 without padding here.
      'padding': 4,
      'flip': True,
      'cutout': 0,
  })
  # He et al.: batch, steps, momentum, decay, learning rate.
  config.batch_size = 128
  config.num_steps = 64_000
  config.optimizer = {
      'name': 'sgd',
      'learning_rate': 0.1,
      'momentum': 0.9,
      'nesterov': True,  # ours
      'weight_decay': 1e-4,
      'clip_norm': 0.0,
      # He et al. warm up for 400 steps at depth 110. Ours: at every depth, and
      # a cosine, which has no steps to choose.
      'schedule': {'name': 'cosine', 'warmup_steps': 400},
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.network = {
      'name': 'deterministic',
      'base': {
          'name': 'resnet',
          'depth': int(depth),
          'bn_momentum': 0.9,  # enn's
          'dtype': 'float32',  # ours: these networks are cheap
          'remat': False,
      },
  }
  config.eval.every = 8000  # ours
  config.checkpoint.every = 2000  # ours
  if 'smoke' in variants:
    smoke(config, shape=(8, 8, 3), classes=10)
    config.network.base.update(blocks=(1, 1, 1), channels=(4, 8, 8))
  return config
