"""An epinet on the stored features of an ImageNet network, for ten classes.

  python train.py --config=configs/imagenette_epinet.py \
    --config.dataset.path=features/imagenette --workdir=runs/imagenette_epinet

The base is a quantised MobileNetV2, whose features of Imagenette's images are
in a file: docs/foreign_bases.md makes a folder of them. Expected: see there,
where the table is that of `benchmarks/frozen_base.py`.
"""

import ml_collections

from flax_enn.training import (
    default_config,
    on_features,
    parse_variants,
    smoke,
)


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:smoke` is its tiny form on fake data."""
  variants = parse_variants(arg, known=('smoke',))
  config = default_config()
  config.batch_size = 128
  config.num_steps = 2000
  config.num_indices = 8
  config.network = {
      'name': 'epinet',
      'features': ('pooled',),
      'index_dim': 30,
      'hiddens': (50,),
      'prior_scale': 0.5,
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1.0
  # These, as the rest, were chosen on a part of the training split.
  config.eval.temperature = 0.4
  config.eval.base_temperature = 0.7
  config.checkpoint.every = 500
  on_features(config)
  if 'smoke' in variants:
    smoke(config, shape=(8,), classes=10, feature='pooled')
    config.network.hiddens = (5,)
  return config
