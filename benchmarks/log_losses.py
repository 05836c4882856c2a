"""Log-losses of outputs `[N, B, C]`: at a temperature, and beside others."""

from collections.abc import Mapping
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn import over_index
from flax_enn.likelihoods import Categorical
from flax_enn.metrics import PredictiveStats
from flax_enn.metrics.joint import joint_nll
from flax_enn.metrics.marginal import accuracy, nll

TAU = 10
TEMPERATURES = (
    0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1,
    1.2, 1.35, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0,
)  # fmt: skip


def outputs(network: Any, variables: Any, x: Any, n: int) -> np.ndarray:
  """`[N, B, C]` at all members of an ensemble, or at n indices."""
  n = network.indexer.size or n
  indices = network.indexer.sample(jax.random.key(1), n)

  @jax.jit
  def some(variables: Any, x: Any, indices: Any) -> jax.Array:
    return over_index(lambda z: network.apply(variables, x, z).preds, indices)

  chunks = [some(variables, x, indices[i : i + 50]) for i in range(0, n, 50)]
  return np.concatenate(chunks)


def scores(
    found: Any, y: Any, classes: int, temperature: float
) -> dict[str, np.ndarray]:
  """`[B]` accuracy and nll, `[B // 2]` joint log-loss."""
  return jax.device_get(_scores(found, y, classes, temperature))


@functools.partial(jax.jit, static_argnums=2)
def _scores(
    found: jax.Array, y: jax.Array, classes: int, temperature: jax.Array
) -> dict[str, jax.Array]:
  likelihood = Categorical(classes)
  stats = PredictiveStats.zeros(likelihood, len(y), TAU)
  for i in range(0, len(found), 50):
    stats = stats.update(likelihood, found[i : i + 50] / temperature, y)
  return {
      'accuracy': accuracy(stats, y),
      'nll': nll(stats),
      'joint': joint_nll(stats, jnp.ones(len(y)))['values'],
  }


def tempered(
    found: Any, y: Any, classes: int
) -> tuple[float, dict[str, float]]:
  """The temperature of the lowest nll, and the mean scores at it."""
  mean = {
      t: {k: float(v.mean()) for k, v in scores(found, y, classes, t).items()}
      for t in TEMPERATURES
  }
  best = min(mean, key=lambda t: mean[t]['nll'])
  return best, mean[best]


def means(found: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Of scores `[seeds, B]`: their means, with standard errors over seeds."""
  result = {}
  for name, values in found.items():
    seeds = values.mean(1)
    result[name] = float(seeds.mean())
    if name != 'accuracy' and len(seeds) > 1:
      error = seeds.std(ddof=1) / math.sqrt(len(seeds))
      result[f'{name}_error'] = float(error)
  return result


def ratios(
    found: Mapping[str, np.ndarray], reference: Mapping[str, np.ndarray]
) -> dict[str, float]:
  """Ratios of means, with errors by the delta method over the examples."""
  result = {}
  for name in ('nll', 'joint'):
    a, b = found[name].mean(0), reference[name].mean(0)
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std(ddof=1) / math.sqrt(len(a)) / b.mean()
    result[f'{name}_of_linear'] = float(ratio)
    result[f'{name}_of_linear_error'] = float(error)
  return result
