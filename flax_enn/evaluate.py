"""Evaluates a checkpoint, on the data of its run or on any other.

  python -m flax_enn.evaluate --workdir=runs/digits_epinet
  python -m flax_enn.evaluate --workdir=runs/digits_epinet \
    --selective --conformal=0.9 --ood='{"name": "arrays", "path": "ood.npz"}'

Prints the metrics of the base and of the network, and writes results.json,
report.png and the pictures of the studies into --out, WORKDIR/evaluation-STEP
by default. What is asked for here can be had while training, too: each is an
entry of config.evals.
"""

import ast
import json
from typing import Any

from absl import flags, logging
from etils import epath
import jax
import ml_collections

from flax_enn import checkpoint_flags as asked
from flax_enn import command_line

flags.adopt_module_key_flags(asked)
_DATASET = flags.DEFINE_string(
    'dataset',
    None,
    "Data set in place of the run's own: the name of one, or its section as in"
    ' a config: \'{"name": "arrays", "path": "mine.npz"}\'.',
)
_OOD = flags.DEFINE_multi_string(
    'ood',
    [],
    'Data set, as in --dataset, that is to be told from the evaluated one by'
    ' the uncertainty of the predictions. May be repeated.',
)
_SELECTIVE = flags.DEFINE_bool(
    'selective', False, 'Adds risk against coverage, and a plot of it.'
)
_CONFORMAL = flags.DEFINE_float(
    'conformal',
    None,
    'Adds the coverage and size of conformal sets that are to hold this share'
    ' of the labels.',
)


def run(arguments: list[str]) -> None:
  """Evaluates, prints and writes."""
  from flax_enn import evaluation, run_folder, sharding
  from flax_enn.data_section import create_dataset
  from flax_enn.inference import stored
  from flax_enn.model import run_keys

  if arguments:
    raise ValueError(f'unknown arguments {arguments}; see --help')
  folder = epath.Path(asked.WORKDIR.value or '').expanduser()
  mesh = sharding.create_mesh({'data': -1})
  found = stored.load(
      folder,
      asked.STEP.value,
      mesh,
      asked.NUM_INDICES.value,
      asked.SEED.value,
      asked.ALLOW_IMPORTS.value,
  )
  config = ml_collections.ConfigDict(
      run_folder.read_json(folder / 'config.json')
  )
  if asked.NUM_INDICES.value:
    config.eval.num_indices = asked.NUM_INDICES.value
  own = asked_data()
  config.evals = dict(config.evals if not own else {}) | asked_studies(own)
  out = epath.Path(asked.OUT.value or folder / f'evaluation-{found.step}')
  with sharding.use_mesh(mesh, found.rules):
    evaluations = evaluation.create_evaluations(
        config,
        found.model,
        create_dataset(config.dataset),
        mesh,
        found.rules,
        own,
    )
    evaluator = evaluation.Evaluator(
        evaluations,
        key=run_keys(config.seed)['evaluation']
        if asked.SEED.value is None
        else jax.random.key(asked.SEED.value),
        workdir=out.expanduser(),
        identity={'config': json.loads(config.to_json()), 'own': own},
    )
    results = evaluator(found.variables, found.step, final=True) or {}
  for name, values in results.items():
    if name != 'step':
      print(f'{name}, step {found.step}:\n{evaluation.table(values)}\n')
  logging.info('See results.json and the pictures in %s', out)


def asked_data() -> dict[str, Any]:
  """What --dataset and --split ask to evaluate on, as an entry of a config."""
  data: dict[str, Any] = {}
  if _DATASET.value:
    data['dataset'] = section(_DATASET.value, 'dataset')
    data['split'] = 'test'
  return data | ({'split': asked.SPLIT.value} if asked.SPLIT.value else {})


def asked_studies(own: dict[str, Any]) -> dict[str, Any]:
  """The entries of `config.evals` that the flags ask for, on the same data."""
  studies = {}
  if _SELECTIVE.value:
    studies['selective'] = {**own, 'study': {'name': 'selective'}}
  if _CONFORMAL.value is not None:
    study = {'name': 'conformal', 'level': _CONFORMAL.value}
    studies['conformal'] = {**own, 'study': study}
  for number, text in enumerate(_OOD.value):
    other = section(text, 'ood')
    studies[f'ood{number or ""}_{other["name"]}'] = {
        'study': {'name': 'out_of_distribution'},
        'dataset': other,
    }
  return studies


def section(text: str, flag: str) -> dict[str, Any]:
  """`'digits'` or `'{"name": "digits", …}'` as the section of a data set."""
  if not text.lstrip().startswith('{'):
    return {'name': text}
  try:
    found = ast.literal_eval(text)
    if 'name' not in found:
      raise ValueError('it has no name')
  except (ValueError, SyntaxError, TypeError) as e:
    raise ValueError(
        f"--{flag} is {text!r}, which is neither a name nor a section such as"
        f' \'{{"name": "arrays", "path": "mine.npz"}}\': {e}'
    ) from e
  return found


if __name__ == '__main__':
  command_line.main(run, 'workdir')
