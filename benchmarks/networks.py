"""Every network, trained three times on the smallest data set it can take.

  python -m benchmarks.networks --dataset=two_moons

A row for each: `nll` is the marginal log-loss on the test split; `of_plain`
that over the one of the same base without an index, trained alike; `saved` how
much the joint log-loss of tau = 10 labels is below tau times the marginal one,
in nats: 0 without an index. Means over the seeds, and standard errors. Which
networks: `benchmarks/network_cases.py`.
"""

import math
from typing import Any

from absl import app, flags
import numpy as np
import optax

from benchmarks import timing
from benchmarks.network_cases import CASES, Case
from flax_enn import Nll, Objective, compilation_cache
from flax_enn.data.base import Dataset
from flax_enn.experiment import Experiment
from flax_enn.loggers import SilentLogger
from flax_enn.losses import Bootstrap, DiagonalKL, L2Penalty

_DATASET = flags.DEFINE_enum(
    'dataset', 'two_moons', list(CASES), 'What is learned.'
)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each network.')
_STEPS = flags.DEFINE_integer('steps', None, 'Of training; see the data set.')
_ONLY = flags.DEFINE_list('only', [], 'Names of networks; all by default.')
_BASES = flags.DEFINE_list('bases', [], 'Names of bases; all by default.')
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '', 'Of CoLA: cola_train.tsv.gz and cola_dev.tsv.gz.'
)

TAU = 10
# Those whose weights have a posterior, which an ELBO keeps near its prior.
POSTERIORS = ('bayes_by_backprop', 'variational_last_layer')
# Those that are made for a base that is trained already, and frozen.
ON_TRAINED = ('laplace', 'lora_ensemble')


class Runs:
  """Runs on one data set."""

  def __init__(self, case: Case, steps: int, data_dir: str):
    """Nothing is trained yet."""
    self._case, self._steps = case, steps
    self.dataset: Dataset = case.dataset(data_dir)
    self._n = len(self.dataset.load('train'))
    self._plain: dict[Any, Experiment] = {}

  def plain(self, base: Any, seed: int) -> Experiment:
    """The base without an index, trained once."""
    if (base, seed) not in self._plain:
      run = self._plain[base, seed] = self._experiment(base, '', seed)
      run.train(self._steps)
    return self._plain[base, seed]

  def trained(
      self, base: Any, network: Any, name: str, seed: int
  ) -> Experiment:
    """A network on that base."""
    run, steps = self._experiment(network, name, seed), self._steps
    if name in ON_TRAINED:
      params = {'params': self.plain(base, seed).state.params['base']}
      collections = {**run.state.collections, 'frozen': {'base': params}}
      run.state = run.state.replace(collections=collections)
    if name == 'laplace':  # one pass, which changes no parameter
      steps = self._n // self._case.batch_size
    run.train(steps)
    return run

  def _experiment(self, network: Any, name: str, seed: int) -> Experiment:
    return Experiment(
        network,
        self._objectives(name),
        optax.adamw(self._case.learning_rate, weight_decay=1e-3),
        self.dataset,
        seed,
        SilentLogger(),
        eval_datasets={'test': self.dataset},
        train_log_every=self._steps + 1,
        eval_log_every=self._steps + 1,
        batch_size=self._case.batch_size,
    )

  def _objectives(self, name: str) -> dict[str, Objective]:
    if name == 'lora_ensemble':
      # A standard normal prior on the factors, which would else fit the noise
      # that the base has left, and examples of its own for every member.
      prior = L2Penalty({'^lora_': 0.5 / self._n})
      data = Objective(Nll(), noise=(Bootstrap(),))
      return {'data': data, 'prior': Objective(prior)}
    objectives = {'data': Objective(Nll())}
    if name in POSTERIORS:
      # Tempered: as many weights as here outweigh so few examples.
      objectives['kl'] = Objective(DiagonalKL(), weight=0.03)
    return objectives


def main(argv: list[str]) -> None:
  """Prints a row for each network."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  compilation_cache.enable(None)  # seeds differ in numbers only
  case, only = CASES[_DATASET.value], set(_ONLY.value)
  runs = Runs(case, _STEPS.value or case.steps, _DATA_DIR.value)
  groups = case.groups(runs.dataset.likelihood.outputs)
  bases = _BASES.value or groups
  if unknown := set(bases) - set(groups):
    raise app.UsageError(f'--bases has {unknown}; known: {set(groups)}')
  groups = {name: groups[name] for name in bases}
  names = {name for _, networks in groups.values() for name in networks}
  if unknown := only - names:
    raise app.UsageError(f'--only has {unknown}; known: {names}')
  seeds = range(_SEEDS.value)
  for group, (base, networks) in groups.items():
    networks = {k: v for k, v in networks.items() if not only or k in only}
    if not networks:
      continue
    found = [runs.plain(base, seed).evaluate('test') for seed in seeds]
    plain = [f['nll'] for f in found]
    _print(f'{group} deterministic', found, plain)
    for name, network in networks.items():
      found = [
          runs.trained(base, network, name, seed).evaluate('test')
          for seed in seeds
      ]
      _print(f'{group} {name}', found, plain)


def _print(
    name: str, found: list[dict[str, float]], plain: list[float]
) -> None:
  nll = [f['nll'] for f in found]
  values = _mean('nll', nll)
  if min(plain) > 0:  # a log-density has no ratio
    values['of_plain'] = float(np.mean(nll) / np.mean(plain))
  saved = [TAU * f['nll'] - f['joint_nll'] for f in found]
  timing.print_row(name, **values, **_mean('saved', saved))


def _mean(name: str, values: list[float]) -> dict[str, float]:
  error = np.std(values, ddof=1) / math.sqrt(len(values))
  return {name: float(np.mean(values)), f'{name}_error': float(error)}


if __name__ == '__main__':
  app.run(main)
