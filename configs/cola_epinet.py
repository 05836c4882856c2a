"""An epinet on the pooled feature of the frozen BERT of `cola_bert.py`.

  python train.py --config=configs/cola_bert.py --workdir=runs/cola_bert \
    --config.dataset.data_dir=CoLA
  python train.py --config=configs/cola_epinet.py --workdir=runs/cola_epinet \
    --config.dataset.data_dir=CoLA

and with `:sst2` after the names of both configs, runs/sst2_bert and SST-2.

`:joint` trains both at once; `:ensemble` and `:dropout` put ten last layers, or
one behind dropout, in the place of the epinet. Expected on the development
sentences, of which a base of so few knows no more than how often they are
acceptable:

  CoLA       base   epinet  epinet / base
  accuracy   0.675  0.655
  nll        0.623  0.654   1.05
  joint_nll  6.234  4.611   0.74

  SST-2
  accuracy   0.810  0.810
  nll        0.470  0.478   1.02
  joint_nll  4.704  2.754   0.59
"""

import ml_collections
from ml_collections import config_dict

from flax_enn.networks.backbones import bert
from flax_enn.training import default_config, parse_variants, smoke

# As in `cola_bert.py`.
SIZES = {
    'tiny': {'layers': 2, 'hidden': 64, 'heads': 4, 'intermediate': 128},
    'small': {},
    'large': dict(bert.LARGE),
}
# In the place of the epinet.
HEADS = {
    'ensemble': {
        'name': 'ensemble',
        'size': 10,
        'member': {'name': 'mlp', 'hiddens': ()},
    },
    'dropout': {'name': 'mlp_dropout', 'hiddens': (), 'rate': 0.1},
}


def get_config(arg: str = '') -> ml_collections.ConfigDict:
  """The recipe; `:small` and `:large` choose the size, `:smoke` a tiny form.

  `:joint` trains the base too, `:sst2` has the other data set, `:ensemble` and
  `:dropout` another head.
  """
  variants = parse_variants(
      arg, known=('joint', 'sst2', 'smoke', *HEADS), one_of=tuple(SIZES)
  )
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
  config.num_steps = 1000
  config.num_indices = 8
  base = {
      'name': 'bert',
      'vocab_size': config.dataset.get_ref('vocab_size'),
      'positions': config.dataset.get_ref('length'),
      'dropout': 0.1,
      'dtype': 'float32' if size == 'tiny' else 'bfloat16',
      'frozen': 'joint' not in variants,
      **SIZES[size],
  }
  config.network = {
      'name': 'epinet',
      'base': base,
      'features': ('pooled',),
      'index_dim': 10,
      'hiddens': (50,),
      'prior_scale': 3.0,
  }
  if {*HEADS} <= variants:
    raise ValueError(f'--config=…:{arg} asks for two heads; choose one')
  for name in {*HEADS} & variants:
    config.network = {
        'name': 'combined',
        'base': base,
        'feature': 'pooled',
        'head': HEADS[name],
    }
  config.objectives = {'data': {'loss': {'name': 'xent'}}}
  config.optimizer.learning_rate = 1e-3
  config.optimizer.weight_decay = 1e-2
  if 'joint' not in variants:
    config.init = {
        'workdir': '../sst2_bert' if sst2 else '../cola_bert',
        'step': 'latest',
        'modules': {'base': 'base'},
    }
  config.checkpoint.every = 200
  if 'smoke' in variants:
    smoke(config, shape=(6,), classes=2, vocab_size=20)
    config.network.base.update(
        vocab_size=20, positions=6, layers=1, hidden=8, heads=2, intermediate=4
    )
    config.network.hiddens = (5,)
  return config
