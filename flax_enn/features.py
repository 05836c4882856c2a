r"""Computes the features of a frozen base once, for many trainings on them.

  python -m flax_enn.features --config=configs/digits_epinet.py \
    --workdir=runs/digits_epinet --out=features/digits
  python -m flax_enn.features --workdir=runs/digits_base --names=hidden_1 \
    --out=features/digits

With --config, the base is the one that a run of that config in --workdir would
start from, by `config.init`; without, the base of the run that is there. The
features are those that its network reads, or --names. The same command goes on
where it was stopped, and computes damaged shards again.

What trains on them has `config.dataset = dict(name='features', path=OUT)` and
`config.network.base = dict(name='stored_features')`, by hand or by
`flax_enn.training.on_features(config, OUT)`.
"""

from absl import flags
from etils import epath
from ml_collections import config_flags

from flax_enn import checkpoint_flags as asked
from flax_enn import command_line

flags.adopt_module_key_flags(asked)
_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file whose network has a frozen base.'
)
_NAMES = flags.DEFINE_list(
    'names', [], 'Of the features; those that the network reads by default.'
)
_SHARD_SIZE = flags.DEFINE_integer(
    'shard_size', 4096, 'Examples in a file.', lower_bound=1
)


def run(arguments: list[str]) -> None:
  """Computes and writes."""
  import ml_collections

  from flax_enn import run_folder
  from flax_enn.feature_cache import Base, extract

  if arguments:
    raise ValueError(f'unknown arguments {arguments}; see --help')
  folder = epath.Path(asked.WORKDIR.value or '').expanduser()
  if _CONFIG.value:
    config = _CONFIG.value
    base = Base.from_config(config, folder, _NAMES.value)
  else:
    base = Base.from_run(folder, _NAMES.value, asked.STEP.value)
    config = ml_collections.ConfigDict(
        run_folder.read_json(folder / 'config.json')
    )
  splits = [asked.SPLIT.value] if asked.SPLIT.value else ['train', 'test']
  manifest = extract(
      base, config, asked.OUT.value or '', splits, _SHARD_SIZE.value
  )
  for split, known in manifest['splits'].items():
    print(f'{split}: {known["examples"]} examples')
  print(f'{asked.OUT.value}: {sorted(manifest["input_spec"])} of the base'
        f' {manifest["id"]}')


if __name__ == '__main__':
  command_line.main(run, 'workdir', 'out')
