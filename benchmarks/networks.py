"""Every network, trained three times on the smallest data set it can take.

  python -m benchmarks.networks --dataset=two_moons

A row for each: `nll` is the marginal log-loss on the test split; `of_plain`
that over the one of the same base without an index, trained alike; `saved` how
much the joint log-loss of tau = 10 labels is below tau times the marginal one,
in nats: 0 without an index. Means over the seeds, and standard errors, that of
`of_plain` from the differences of runs with the same seed. Which networks:
`benchmarks/network_cases.py`.

A log-density may be negative. Before one log-loss is divided by another, both
are counted from that of an exact prediction: log(std sqrt(2 pi)) for a target
with noise of this deviation, 0 for a label.
"""

import math
from typing import Any

from absl import app, flags
import numpy as np
import optax

from benchmarks import timing
from benchmarks.network_cases import CASES, Case
from flax_enn import Objective, compilation_cache
from flax_enn.data.base import Dataset
from flax_enn.experiment import Experiment
from flax_enn.likelihoods import Gaussian, Likelihood
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
    'data_dir', '', 'Of sentences: {cola,sst2}_{train,dev}.tsv.gz.'
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
    self.likelihood = case.likelihood or self.dataset.likelihood
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
    rate = self._case.learning_rate
    if self._case.decay:
      rate = optax.cosine_decay_schedule(rate, self._steps)
    return Experiment(
        network,
        self._objectives(name),
        optax.adamw(rate, weight_decay=1e-3),
        self.dataset,
        seed,
        SilentLogger(),
        eval_datasets={'test': self.dataset},
        train_log_every=self._steps + 1,
        eval_log_every=self._steps + 1,
        batch_size=self._case.batch_size,
        likelihood=self.likelihood,
    )

  def _objectives(self, name: str) -> dict[str, Objective]:
    if name == 'lora_ensemble':
      # A standard normal prior on the factors, which would else fit the noise
      # that the base has left, and examples of its own for every member.
      prior = L2Penalty({'^lora_': 0.5 / self._n})
      data = Objective(self._case.loss, noise=(Bootstrap(),))
      return {'data': data, 'prior': Objective(prior)}
    objectives = {'data': Objective(self._case.loss)}
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
  groups = case.groups(runs.likelihood.outputs)
  bases = _BASES.value or groups
  if unknown := set(bases) - set(groups):
    raise app.UsageError(f'--bases has {unknown}; known: {set(groups)}')
  groups = {name: groups[name] for name in bases}
  names = {name for _, networks in groups.values() for name in networks}
  if unknown := only - names:
    raise app.UsageError(f'--only has {unknown}; known: {names}')
  seeds = range(_SEEDS.value)
  floor = _lowest(runs.dataset.likelihood)
  for group, (base, networks) in groups.items():
    networks = {k: v for k, v in networks.items() if not only or k in only}
    if not networks:
      continue
    plain = [runs.plain(base, seed).evaluate('test') for seed in seeds]
    _print(f'{group} deterministic', plain, plain, floor)
    for name, network in networks.items():
      found = [
          runs.trained(base, network, name, seed).evaluate('test')
          for seed in seeds
      ]
      _print(f'{group} {name}', found, plain, floor)


def _lowest(likelihood: Likelihood) -> float:
  """The log-loss of an example that is predicted exactly."""
  if not isinstance(likelihood, Gaussian):
    return 0.0
  return math.log(likelihood.scale * math.sqrt(2 * math.pi))


def _print(
    name: str,
    found: list[dict[str, float]],
    plain: list[dict[str, float]],
    floor: float,
) -> None:
  nll, base = (np.array([f['nll'] for f in each]) for each in (found, plain))
  above = base.mean() - floor
  ratio = (nll.mean() - floor) / above
  saved = [TAU * f['nll'] - f['joint_nll'] for f in found]
  timing.print_row(
      name,
      nll=float(nll.mean()),
      nll_error=_error(nll),
      of_plain=float(ratio),
      of_plain_error=_error(nll - ratio * base) / above,
      saved=float(np.mean(saved)),
      saved_error=_error(saved),
  )


def _error(values: Any) -> float:
  """The standard error of their mean."""
  return float(np.std(values, ddof=1) / math.sqrt(len(values)))


if __name__ == '__main__':
  app.run(main)
