"""BERT on the acceptability of sentences: the base of `cola_epinet.py`.

With the files of CoLA, `train.tsv` and `dev.tsv`, in a folder:

  python train.py --config=configs/cola_bert.py --workdir=runs/cola_bert \
    --config.dataset.data_dir=CoLA

From scratch, with a vocabulary that is learned from its training sentences:
there is nothing to download, and little that so few sentences can teach. The
67,349 phrases of SST-2, films that are praised or not, teach more:

  python train.py --config=configs/cola_bert.py:sst2 --workdir=runs/sst2_bert \
    --config.dataset.data_dir=SST-2

`:small` and `:large` are the two sizes of BERT (110 and 340 million parameters)
in the place of one that two CPU cores can train. Expected on the development
sentences, on which the class frequencies of CoLA have the log-loss 0.618:

             CoLA   SST-2
  accuracy   0.675  0.810
  nll        0.623  0.470
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.networks.backbones import bert
from flax_enn.training import default_config, parse_variants, smoke

# What is left out has the value of the small one.
SIZES = {
    'tiny': {'layers': 2, 'hidden': 64, 'heads': 4, 'intermediate': 128},
    'small': {},
    'large': dict(bert.LARGE),
}


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:small` and `:large` choose the size, `:smoke` a tiny form.

  `:sst2` has the other data set.
  """
  variants = parse_variants(arg, known=('sst2', 'smoke'), one_of=tuple(SIZES))
  sst2 = 'sst2' in variants
  (size,) = variants & set(SIZES)
  config = default_config()
  config.dataset.update({
      'name': 'sst2' if sst2 else 'cola',
      'data_dir': config_dict.placeholder(str),
      'train': 'train.tsv',
      'test': 'dev.tsv',
      'length': 48 if sst2 else 32,
      'vocab_size': 4000,
  })
  config.batch_size = 32
  config.num_steps = 2500 if sst2 else 800
  config.network = {
      'name': 'deterministic',
      'base': {
          'name': 'bert',
          'vocab_size': config.dataset.get_ref('vocab_size'),
          'positions': config.dataset.get_ref('length'),
          'dropout': 0.1,
          'dtype': 'float32' if size == 'tiny' else 'bfloat16',
          **SIZES[size],
      },
  }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 5e-4 if sst2 else 2e-4
  if size != 'tiny':
    config.optimizer.learning_rate = 2e-5
  config.optimizer.weight_decay = 1e-2
  config.optimizer.clip_norm = 1.0
  config.optimizer.schedule.warmup_steps = 200
  config.checkpoint.every = 500
  if 'smoke' in variants:
    smoke(config, shape=(6,), classes=2, vocab_size=20)
    config.network.base.update(
        vocab_size=20, positions=6, layers=1, hidden=8, heads=2, intermediate=4
    )
  return config
