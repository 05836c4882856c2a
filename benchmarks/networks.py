"""Every network, trained three times on the smallest data set it can take.

  python -m benchmarks.networks --dataset=two_moons

A row for each: `nll` is the marginal log-loss on the test split; `of_plain`
that over the one of the same base without an index, trained alike; `saved` how
much the joint log-loss of tau = 10 labels is below tau times the marginal one,
in nats: 0 without an index. Means over the seeds, and standard errors.
"""

from collections.abc import Mapping
import math
from typing import Any

from absl import app, flags
import numpy as np
import optax

from benchmarks import timing
from flax_enn import (
    MLP,
    Deterministic,
    Ensemble,
    EnsemblePrior,
    Epinet,
    Frozen,
    Nll,
    Objective,
    ScaledPrior,
    WithPrior,
)
from flax_enn.data.regression import Regression
from flax_enn.data.two_moons import TwoMoons
from flax_enn.experiment import Experiment
from flax_enn.loggers import SilentLogger
from flax_enn.losses import DiagonalKL
from flax_enn.networks.backbones.spectral_norm import SpectralNorm
from flax_enn.networks.batch_ensemble import BatchEnsemble
from flax_enn.networks.bayes_by_backprop import BayesByBackprop
from flax_enn.networks.combined import Combined
from flax_enn.networks.gaussian_noise_mlp import GaussianNoiseMLP
from flax_enn.networks.hypermodel import Hypermodel
from flax_enn.networks.index_mlp import IndexMLP
from flax_enn.networks.laplace import Laplace
from flax_enn.networks.linear_ensemble import LinearEnsemble
from flax_enn.networks.lora_ensemble import LoraEnsemble
from flax_enn.networks.mlp_dropout import MLPDropout
from flax_enn.networks.rescaled import Rescaled
from flax_enn.networks.sngp import Sngp
from flax_enn.networks.variational_last_layer import VariationalLastLayer

_DATASET = flags.DEFINE_enum(
    'dataset', 'two_moons', ['two_moons', 'regression'], 'What is learned.'
)
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each network.')
_STEPS = flags.DEFINE_integer('steps', 1000, 'Of training.')
_ONLY = flags.DEFINE_list('only', [], 'Names of networks; all by default.')

HIDDENS, TAU = (50, 50), 10
# Those whose weights have a posterior, which an ELBO keeps near its prior.
POSTERIORS = ('bayes_by_backprop', 'variational_last_layer')
DATASETS = {
    'two_moons': TwoMoons(n_train=200, n_test=1000, noise=0.3),
    'regression': Regression(),
}


def networks(classes: int) -> Mapping[str, Any]:
  """Each network on the same base, by name."""
  base, last = MLP(HIDDENS, classes), ('hidden_1',)
  epinet = Epinet(base, ('inputs', *last), index_dim=8, hiddens=(15, 15))
  return {
      'batch_ensemble': BatchEnsemble(base, size=8),
      'bayes_by_backprop': BayesByBackprop(base),
      'combined': Combined(
          base=MLP(HIDDENS[:1], classes),
          feature='hidden_0',
          head=MLPDropout(HIDDENS[1:], classes),
      ),
      'ensemble': Ensemble(base, size=10),
      'epinet': epinet,
      'gaussian_noise_mlp': GaussianNoiseMLP(HIDDENS, classes, init_scale=0.1),
      'hypermodel': Hypermodel(base, index_dim=5),
      'index_mlp': IndexMLP(HIDDENS, classes, index_dim=11),
      'laplace': Laplace(
          Frozen(base), last, noise_std=0.1 if classes == 1 else None
      ),
      'linear_ensemble': LinearEnsemble(base, last, index_dim=10),
      'lora_ensemble': LoraEnsemble(base, size=8),
      'mlp_dropout': MLPDropout(HIDDENS, classes),
      'rescaled': Rescaled(epinet),
      'sngp': Sngp(SpectralNorm(base), last, classes),
      'variational_last_layer': VariationalLastLayer(base, last, classes),
      'with_prior': WithPrior(
          Ensemble(base, size=10),
          {'member': ScaledPrior(EnsemblePrior(base.clone()), 1.0)},
      ),
  }


def trained(network: Any, name: str, seed: int) -> Experiment:
  """One run."""
  objectives = {'data': Objective(Nll())}
  if name in POSTERIORS:
    # Tempered: as many weights as here outweigh so few examples.
    objectives['kl'] = Objective(DiagonalKL(), weight=0.03)
  dataset = DATASETS[_DATASET.value]
  run = Experiment(
      network,
      objectives,
      optax.adamw(3e-3, weight_decay=1e-3),
      dataset,
      seed,
      SilentLogger(),
      eval_datasets={'test': dataset},
      eval_log_every=_STEPS.value + 1,
  )
  if name == 'laplace':
    return fitted(run, seed)
  run.train(_STEPS.value)
  return run


def fitted(run: Experiment, seed: int) -> Experiment:
  """A run that takes the base of another, and one pass over its data."""
  plain = trained(Deterministic(run.network.base.net), '', seed)
  base = {'params': plain.state.params['base']}
  collections = {**run.state.collections, 'frozen': {'base': base}}
  run.state = run.state.replace(collections=collections)
  run.train(len(DATASETS[_DATASET.value].load('train')) // 100)
  return run


def scores(network: Any, name: str, seed: int) -> dict[str, float]:
  """The metrics of one run."""
  return trained(network, name, seed).evaluate('test')


def main(argv: list[str]) -> None:
  """Prints a row for each network."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  classes = DATASETS[_DATASET.value].likelihood.outputs
  all_of_them = networks(classes)
  if unknown := set(_ONLY.value) - set(all_of_them):
    raise app.UsageError(f'--only has {unknown}; known: {set(all_of_them)}')
  seeds = range(_SEEDS.value)
  base = Deterministic(MLP(HIDDENS, classes))
  plain = [scores(base, '', seed)['nll'] for seed in seeds]
  timing.print_row('deterministic', **_mean('nll', plain))
  for name, network in all_of_them.items():
    if _ONLY.value and name not in _ONLY.value:
      continue
    found = [scores(network, name, seed) for seed in seeds]
    nll = [f['nll'] for f in found]
    timing.print_row(
        name,
        **_mean('nll', nll),
        of_plain=float(np.mean(nll) / np.mean(plain)),
        **_mean('saved', [TAU * f['nll'] - f['joint_nll'] for f in found]),
    )


def _mean(name: str, values: list[float]) -> dict[str, float]:
  error = np.std(values, ddof=1) / math.sqrt(len(values))
  return {name: float(np.mean(values)), f'{name}_error': float(error)}


if __name__ == '__main__':
  app.run(main)
