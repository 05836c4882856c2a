r"""An epinet on a frozen base beside what else could be put on its features.

  python -m benchmarks.frozen_base --features=features/imagenette
  python -m benchmarks.frozen_base --features=features/cifar10

--features is a folder of `flax_enn.features`; docs/foreign_bases.md says how
these two are made, and what was found. Rows:

  base      as it came
  linear    its last layer trained anew: what all others are compared with
  epinet    beside the base as it came, or beside a last layer of its own
  ensemble  of ten last layers
  laplace   a Gaussian of the last layer around `linear`, fitted afterwards

A part of the training split chooses, for every row by the same rule: of each
setting (coordinate by coordinate, in the order of `grid`) the value with the
lowest joint log-loss among those whose marginal one is at most 2 % above that
of `linear`, each at the temperature that has the lowest marginal log-loss. Then
every row is trained on all of the training split and scored on the test split,
once for each seed. `of_linear` are ratios of mean log-losses; their standard
errors are over the test examples, those of `nll` and `joint` over the seeds.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
from typing import Any

from absl import app, flags
import jax
import numpy as np

from benchmarks import head_fits, log_losses, timing
from benchmarks.head_fits import Pair
from flax_enn import MLP, Deterministic, Ensemble, Epinet
from flax_enn.data import Loader
from flax_enn.data.features import Features
from flax_enn.networks.backbones.stored_features import StoredFeatures
from flax_enn.networks.combined import Combined
from flax_enn.networks.laplace import Laplace

_FEATURES = flags.DEFINE_string('features', None, 'Folder.', required=True)
_FEATURE = flags.DEFINE_string('feature', 'pooled', 'That heads read.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each row.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 2000, 'Of training.', lower_bound=1)
_HOLDOUT = flags.DEFINE_float('holdout', 0.15, 'Part that chooses.')
_ONLY = flags.DEFINE_list('only', [], 'Rows beside `base` and `linear`.')

SLACK = 0.02
NUM_INDICES, FEW_INDICES = 1000, 200

Settings = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
  """A way to predict from stored features.

  Attributes:
    network: of its settings.
    fit: of network, settings, data and seed: the variables.
    grid: setting -> the values to choose from, the first one to begin with.
  """

  network: Callable[[Settings], Any]
  fit: Callable[[Any, Settings, Pair, int], Any]
  grid: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)


def trained(network: Any, settings: Settings, data: Pair, seed: int) -> Any:
  """Variables after `_STEPS` steps."""
  return head_fits.trained(
      network, settings, data, seed, steps=_STEPS.value, classes=_classes()
  )


@functools.cache
def _linear(holdout: bool, seed: int) -> Any:
  """The linear layers that a Gaussian is fitted around."""
  settings, *_ = choose('linear')
  return trained(linear(settings), settings, _data()[0 if holdout else 2], seed)


def gaussian(network: Any, settings: Settings, data: Pair, seed: int) -> Any:
  """The curvature of all examples, around a linear layer."""
  del settings
  holdout = len(data[1]) == len(_data()[0][1])
  return head_fits.gaussian(network, _linear(holdout, seed)['params'], data)


def on_feature(head: Any) -> Combined:
  """A head that reads the feature."""
  return Combined(StoredFeatures(), head, _FEATURE.value)


def linear(settings: Settings) -> Combined:
  """A last layer that is trained anew."""
  del settings
  return on_feature(Deterministic(MLP((), _classes())))


def epinet(settings: Settings) -> Any:
  """Beside the logits of the base, or of a last layer that it trains along."""
  fields = {
      'index_dim': 30,
      'hiddens': (50,),
      'prior_scale': settings['prior_scale'],
  }
  if settings['logits'] == 'base':
    return Epinet(StoredFeatures(), (_FEATURE.value,), **fields)
  return on_feature(Epinet(MLP((), _classes()), ('inputs',), **fields))


def laplace(settings: Settings) -> Combined:
  """Around a last layer that is trained anew."""
  precision = settings['prior_precision']
  return on_feature(
      Laplace(MLP((), _classes()), ('inputs',), prior_precision=precision)
  )


TRAINING = {
    'learning_rate': (1e-3, 3e-3, 1e-2),
    'weight_decay': (1e-4, 0.1, 1.0),
}
ROWS = {
    'base': Row(lambda _: Deterministic(StoredFeatures()), lambda *_: {}),
    'linear': Row(linear, trained, TRAINING),
    'epinet': Row(
        epinet,
        trained,
        {
            'logits': ('base', 'trained'),
            'learning_rate': TRAINING['learning_rate'],
            'prior_scale': (0.5, 0.25, 1.0, 2.0, 4.0, 8.0),
            'num_indices': (8, 32),
            'weight_decay': TRAINING['weight_decay'],
        },
    ),
    'ensemble': Row(
        lambda _: on_feature(Ensemble(MLP((), _classes()), 10)),
        trained,
        TRAINING,
    ),
    'laplace': Row(
        laplace,
        gaussian,
        {'prior_precision': (1e3, 1.0, 10.0, 1e2, 1e4, 1e5)},
    ),
}


@functools.cache
def choose(name: str) -> tuple[Settings, float, float]:
  """What the held out part chooses: settings, temperature; their nll."""
  row, (train, held, *_) = ROWS[name], _data()
  most = choose('linear')[2] if name not in ('base', 'linear') else math.inf
  tried: dict[tuple[Any, ...], tuple[float, dict[str, float]]] = {}

  def cost(settings: Settings) -> tuple[bool, float]:
    key = tuple(settings.values())
    if key not in tried:
      network = row.network(settings)
      variables = row.fit(network, settings, train, 0)
      found = log_losses.outputs(network, variables, held[0], FEW_INDICES)
      tried[key] = log_losses.tempered(found, held[1], _classes())
      temperature, means = tried[key]
      timing.print_row(f'  {name}', **settings, T=temperature, **means)
    _, means = tried[key]
    worse = means['nll'] > (1 + SLACK) * most
    return worse, means['nll' if worse else 'joint']

  best = {setting: values[0] for setting, values in row.grid.items()}
  for setting, values in row.grid.items():
    best = min(({**best, setting: value} for value in values), key=cost)
  cost(best)
  temperature, means = tried[tuple(best.values())]
  return best, temperature, means['nll']


def test(name: str, settings: Settings, temperature: float) -> dict[str, Any]:
  """The scores of every seed, `[seeds, B]`, after training on all examples."""
  row, (*_, train, held) = ROWS[name], _data()
  found = []
  for seed in range(_SEEDS.value):
    network = row.network(settings)
    variables = row.fit(network, settings, train, seed)
    each = log_losses.outputs(network, variables, held[0], NUM_INDICES)
    found.append(log_losses.scores(each, held[1], _classes(), temperature))
  return {k: np.stack([f[k] for f in found]) for k in found[0]}


@functools.cache
def _data() -> tuple[Pair, Pair, Pair, Pair]:
  """For training and for choosing, all for training, the test split."""
  dataset = Features(_FEATURES.value)

  def pair(split: str, holdout: float = 0.0) -> Pair:
    found = Loader(holdout=holdout).source(dataset, split)
    rows, whole = found.rows, found.examples
    return jax.tree.map(lambda a: a[rows], whole.x), whole.y[rows]

  part = _HOLDOUT.value
  return (
      pair('train', part), pair('validation', part), pair('train'), pair('test')
  )  # fmt: skip


@functools.cache
def _classes() -> int:
  return Features(_FEATURES.value).likelihood.outputs


def main(argv: list[str]) -> None:
  """Prints what was tried, and a row for each way."""
  if argv[1:]:
    raise app.UsageError(f'expected flags only, found {argv[1:]}')
  timing.print_machine()
  if unknown := set(_ONLY.value) - set(ROWS):
    raise app.UsageError(f'--only has {unknown}; known: {[*ROWS]}')
  reference = None
  for name in ROWS:
    if _ONLY.value and name not in ('base', 'linear', *_ONLY.value):
      continue
    settings, temperature, _ = choose(name)
    found = test(name, settings, temperature)
    if name == 'base':
      as_it_came = log_losses.means(test(name, {}, 1.0))
      timing.print_row('base, T=1', **as_it_came)
    reference = found if name == 'linear' else reference
    timing.print_row(
        name, **settings, T=temperature, **log_losses.means(found),
        **(log_losses.ratios(found, reference) if reference else {}),
    )  # fmt: skip


if __name__ == '__main__':
  app.run(main)
