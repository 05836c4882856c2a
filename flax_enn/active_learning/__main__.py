"""Learns from the labels that a priority asks for, and draws how well.

  python -m flax_enn.active_learning --config=configs/digits_active.py \
    --workdir=runs/digits_active

What is compared is config.active_learning. The workdir gets results.json (the
metrics and the ids of every round) and active_learning.png. The same command
goes on after the last round that was done; --config.active_learning.seeds and
priorities may be more then.
"""

import itertools
import json
from typing import Any

from absl import flags, logging
from etils import epath
from ml_collections import config_flags

from flax_enn import command_line, run_folder, storage
from flax_enn.workdir_lock import WorkdirLock

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'Config file: configs/NAME.py[:VARIANT].'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the results.')

# What the numbers that are there do not depend on.
_MUTABLE = ('active_learning.seeds', 'active_learning.priorities')


def run(arguments: list[str]) -> None:
  """Learns, prints and writes."""
  if arguments:
    raise ValueError(f'unknown arguments {arguments}; see --help')
  from flax_enn.active_learning import curves
  from flax_enn.active_learning.learner import Learner
  from flax_enn.active_learning.recipe import Recipe, check_same
  from flax_enn.checkpoints import check_init
  from flax_enn.training import checks
  from flax_enn.training.trainer import Trainer

  workdir = epath.Path(_WORKDIR.value or '').expanduser()
  trainer = Trainer.from_config(_CONFIG.value)
  config = trainer.config
  recipe = Recipe.from_config(config)
  checks.check(trainer)
  with (
      WorkdirLock(workdir),
      storage.disk_errors_named(workdir),
      trainer.use_mesh(),
  ):
    if (workdir / 'model.json').exists():
      raise ValueError(
          f'--workdir={workdir} is the run of another command; choose another'
      )
    run_folder.check_resumable(config, workdir, mutable=_MUTABLE)
    if (workdir / 'config.json').exists():
      old = run_folder.read_json(workdir / 'config.json')['active_learning']
      check_same(old, json.loads(config.active_learning.to_json()), workdir)
    check_init(config.init, workdir, trainer.abstract_state)
    learner = Learner(trainer, recipe, workdir)
    run_folder.write_config(config, workdir)
    path, results = workdir / 'results.json', dict[str, Any]()
    if path.exists():
      results = run_folder.read_json(path)
    seeds = range(config.seed, config.seed + recipe.seeds)
    for seed, priority in itertools.product(seeds, recipe.priorities):
      done = results.setdefault(priority, {}).setdefault(str(seed), [])
      for found in learner.rounds(priority, seed, tuple(done)):
        done.append(found)
        run_folder.write_json(path, results)
        said = [f'{m} {found[m]:.4f}' for m in curves.metrics_of(found)]
        logging.info(
            '%s, seed %d: %s of %d labels',
            *(priority, seed, ', '.join(said), found['labels']),
        )
    asked = {p: [results[p][str(s)] for s in seeds] for p in recipe.priorities}
    print(curves.table(asked))
    curves.plot(asked, workdir / 'active_learning.png')
  logging.info('See results.json and active_learning.png in %s', workdir)


if __name__ == '__main__':
  command_line.main(run, 'config', 'workdir')
