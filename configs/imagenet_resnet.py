"""A ResNet on ImageNet: the base of `imagenet_epinet.py`.

  python train.py --config=configs/imagenet_resnet.py:50 \
    --workdir=runs/imagenet_resnet50

The depth is 50, 101, 152 or 200; docs/imagenet.md says how to prepare the data.
enn published its bases without the code that trained them: what is enn's here
is the network, its batch norm, the images and the temperature; the rest is the
recipe of flax/examples/imagenet, whose results are known, with what is said
below.

Expected for depth 50: 0.764 to 0.767 accuracy is what that recipe reaches
without label smoothing. These configs have not been trained to the end yet.
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.training import default_config, parse_variants, smoke

DEPTHS = ('50', '101', '152', '200')


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:50` … `:200` choose the depth, `:smoke` a tiny form."""
  variants = parse_variants(arg, known=('smoke',), one_of=DEPTHS)
  (depth,) = variants & set(DEPTHS)
  config = default_config()
  # enn's images: a random crop of 8 to 100 % of the area and a flip, or the
  # central crop; bicubic to 224; mean and deviation as everywhere.
  config.dataset.update({
      'name': 'imagenet2012',
      'data_dir': config_dict.placeholder(str),  # TFDS's own
      'train_split': 'train',
      'test_split': 'validation',  # whose labels are public
      # Ours: a host of a TPU feeds its chips with some 16 cores of its own.
      'workers': 16,
  })
  # Ours: batch, epochs, learning rate, warm-up, decay and momentum are those of
  # flax/examples/imagenet (0.1 for every 256 examples, 5 epochs of warm-up).
  config.batch_size = 1024
  config.num_steps = 125_100  # 100 epochs of 1,281,167 images
  config.optimizer = {
      'name': 'sgd',
      'learning_rate': 0.4,
      'momentum': 0.9,
      'nesterov': True,
      'weight_decay': 1e-4,
      'clip_norm': 0.0,
      'schedule': {'name': 'cosine', 'warmup_steps': 6255},
  }
  # Ours: enn divides the logits of its bases by 0.8 at evaluation, so they were
  # less sure than they should be, which smoothed labels make a network.
  config.objectives = {
      'data': {'loss': {'name': 'xent', 'label_smoothing': 0.1}}
  }
  config.network = {
      'name': 'deterministic',
      'base': {
          'name': 'resnet',
          'depth': int(depth),
          'bn_momentum': 0.9,  # enn's
          # Ours: the share of one device where flax measured its recipe.
          'bn_batch': 128,
          'dtype': 'bfloat16',  # ours: half the memory and time on a TPU
          'remat': False,  # ours: a batch of 1024 fits on eight chips
      },
  }
  config.eval.every = 12_510  # ours: 10 epochs
  config.eval.temperature = config.eval.base_temperature = 0.8  # enn's
  config.checkpoint.every = 1251  # ours: an epoch, lost at most by a kill
  if 'smoke' in variants:
    smoke(config, shape=(32, 32, 3), classes=10)
    config.network.base.update(
        blocks=(1, 1, 1, 1),
        channels=(8, 8, 16, 16),
        bn_batch=8,
    )
  return config
