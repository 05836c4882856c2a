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
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import timing
from flax_enn import (
    MLP,
    Deterministic,
    Ensemble,
    Epinet,
    Objective,
    Xent,
    over_index,
)
from flax_enn.core import Batch
from flax_enn.data import Loader
from flax_enn.data.features import Features
from flax_enn.likelihoods import Categorical
from flax_enn.metrics import PredictiveStats
from flax_enn.metrics.joint import joint_nll
from flax_enn.metrics.marginal import accuracy, nll
from flax_enn.networks.backbones.stored_features import StoredFeatures
from flax_enn.networks.combined import Combined
from flax_enn.networks.laplace import Laplace
from flax_enn.training.state import init_state
from flax_enn.training.step import train_step
from flax_enn.training.stepper import rows_of

_FEATURES = flags.DEFINE_string('features', None, 'Folder.', required=True)
_FEATURE = flags.DEFINE_string('feature', 'pooled', 'That heads read.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Runs of each row.', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 2000, 'Of training.', lower_bound=1)
_HOLDOUT = flags.DEFINE_float('holdout', 0.15, 'Part that chooses.')
_ONLY = flags.DEFINE_list('only', [], 'Rows beside `base` and `linear`.')

SLACK = 0.02
TAU, NUM_INDICES, FEW_INDICES, BATCH_SIZE = 10, 1000, 200, 128
TEMPERATURES = (
    0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1,
    1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0,
)  # fmt: skip

Pair = tuple[dict[str, np.ndarray], np.ndarray]
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
  """Variables after `_STEPS` steps of AdamW, in one compiled loop."""
  x, y = data
  n, steps = len(y), _STEPS.value
  tx = optax.adamw(
      optax.cosine_decay_schedule(settings['learning_rate'], steps),
      weight_decay=settings['weight_decay'],
  )
  ones = np.ones(n, np.float32)
  examples = Batch(x, y, ones, np.arange(n, dtype=np.int32), ones)
  rng = np.random.default_rng(seed)
  epochs = [rng.permutation(n) for _ in range(-(-steps * BATCH_SIZE // n))]
  rows = np.concatenate(epochs)[: steps * BATCH_SIZE].reshape(steps, -1)
  step = functools.partial(
      train_step,
      network=network,
      objectives={'data': Objective(Xent())},
      tx=tx,
      likelihood=Categorical(_classes()),
      num_examples=n,
      num_indices=settings.get('num_indices') or network.indexer.size,
  )

  @jax.jit
  def run(examples: Batch, rows: jax.Array) -> Any:
    one = rows_of(examples, rows[0, :1])
    state = nn.unbox(init_state(network, tx, seed, one.x))
    return jax.lax.scan(
        lambda s, r: (step(s, rows_of(examples, r))[0], None), state, rows
    )[0]

  return run(examples, rows).variables


@functools.cache
def _linear(holdout: bool, seed: int) -> Any:
  """The linear layers that a Gaussian is fitted around."""
  settings, *_ = choose('linear')
  return trained(linear(settings), settings, _data()[0 if holdout else 2], seed)


def gaussian(network: Any, settings: Settings, data: Pair, seed: int) -> Any:
  """The curvature of all examples, around a linear layer."""
  del settings
  holdout = len(data[1]) == len(_data()[0][1])
  params = _linear(holdout, seed)['params']
  index = network.indexer.sample(jax.random.key(0), 1)[0]

  @jax.jit
  def add(variables: Any, x: Any) -> Any:
    _, found = network.apply(
        variables, x, index, train=True, mutable=['curvature']
    )
    return {**variables, **found}

  one = jax.tree.map(lambda a: a[:2], data[0])
  variables = {**network.init(jax.random.key(0), one, index), 'params': params}
  for i in range(0, len(data[1]), 2000):
    rows = slice(i, i + 2000)
    variables = add(variables, jax.tree.map(lambda a, r=rows: a[r], data[0]))
  return variables


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


def outputs(network: Any, variables: Any, x: Any, n: int) -> np.ndarray:
  """`[N, B, C]` at all members of an ensemble, or at n indices."""
  n = network.indexer.size or n
  indices = network.indexer.sample(jax.random.key(1), n)

  @jax.jit
  def some(variables: Any, x: Any, indices: Any) -> jax.Array:
    return over_index(lambda z: network.apply(variables, x, z).preds, indices)

  chunks = [some(variables, x, indices[i : i + 50]) for i in range(0, n, 50)]
  return np.concatenate(chunks)


@functools.partial(jax.jit, static_argnums=2)
def scores(
    found: jax.Array, y: jax.Array, classes: int, temperature: jax.Array
) -> dict[str, jax.Array]:
  """`[B]` accuracy and nll, `[B // 2]` joint log-loss."""
  likelihood = Categorical(classes)
  stats = PredictiveStats.zeros(likelihood, len(y), TAU)
  for i in range(0, len(found), 50):
    stats = stats.update(likelihood, found[i : i + 50] / temperature, y)
  return {
      'accuracy': accuracy(stats, y),
      'nll': nll(stats),
      'joint': joint_nll(stats, jnp.ones(len(y)))['values'],
  }


def tempered(found: jax.Array, y: jax.Array) -> tuple[float, dict[str, float]]:
  """The temperature of the lowest nll, and the mean scores at it."""
  means = {
      t: {k: float(v.mean()) for k, v in _scores(found, y, t).items()}
      for t in TEMPERATURES
  }
  best = min(means, key=lambda t: means[t]['nll'])
  return best, means[best]


def _scores(found: Any, y: Any, temperature: float) -> dict[str, np.ndarray]:
  return jax.device_get(scores(found, y, _classes(), temperature))


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
      found = outputs(network, variables, held[0], FEW_INDICES)
      tried[key] = tempered(found, held[1])
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
    each = outputs(network, variables, held[0], NUM_INDICES)
    found.append(_scores(each, held[1], temperature))
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
      timing.print_row('base, T=1', **_means(test(name, {}, 1.0)))
    reference = found if name == 'linear' else reference
    timing.print_row(
        name, **settings, T=temperature, **_means(found),
        **(_ratios(found, reference) if reference else {}),
    )  # fmt: skip


def _means(found: Mapping[str, np.ndarray]) -> dict[str, float]:
  means = {}
  for name, values in found.items():
    seeds = values.mean(1)
    means[name] = float(seeds.mean())
    if name != 'accuracy' and len(seeds) > 1:
      error = seeds.std(ddof=1) / math.sqrt(len(seeds))
      means[f'{name}_error'] = float(error)
  return means


def _ratios(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Ratios of means, with errors by the delta method over the examples."""
  ratios = {}
  for name in ('nll', 'joint'):
    a, b = found[name].mean(0), reference[name].mean(0)
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std(ddof=1) / math.sqrt(len(a)) / b.mean()
    ratios[f'{name}_of_linear'] = float(ratio)
    ratios[f'{name}_of_error'] = float(error)
  return ratios


if __name__ == '__main__':
  app.run(main)
