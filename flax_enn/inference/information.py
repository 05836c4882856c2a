"""Mutual information between labels, under weighted indices.

  I(y_m; Y) = H(y_m) - E_Y H(y_m | Y),   p(y_m | Y) = sum_z p(z | Y) p(y_m | z)

for the label y_m of a candidate and the labels Y of the targets, whose law has
an outcome for each joint label, or for each of some drawn ones.
"""

import math
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Index, Variables
from flax_enn.inference.functions import Functions
from flax_enn.inference.programs import Programs
from flax_enn.likelihoods.base import entropy
from flax_enn.sampling import map_over_index, reduce_over_index

MAX_EXACT = 10_000  # joint labels of the targets that are enumerated, at most
_MAX_SIZE = 2**23  # elements of [K, M, C] that are summed at once, about

# Variables, indices, and their log-weights.
Belief = tuple[Variables, Index, jax.Array]


def gain(
    programs: Programs,
    belief: Belief,
    candidates: Any,
    targets: Any,
    *,
    pairwise: bool = False,
    return_error: bool = False,
    num_samples: int = 512,
    seed: int = 0,
) -> Any:
  """`[M]` mutual informations in nats; see `Predictor.information_gain`.

  Exact by enumeration where the targets have at most `MAX_EXACT` joint labels;
  otherwise an estimate from joint labels that are drawn from the model.

  Args:
    programs: of the model.
    belief: variables, indices and log-weights.
    candidates: `[M, ...]` numpy inputs.
    targets: `[T, ...]` numpy inputs.
    pairwise: the mean of the mutual informations with single targets (EPIG,
      Bickford Smith et al., arXiv:2304.08151), which is always exact.
    return_error: also return standard errors `[M]`, which are 0 where exact.
    num_samples: joint labels that are drawn for an estimate.
    seed: that they are drawn from.
  """
  classes = programs.model.likelihood.outputs
  rows = len(jax.tree.leaves(targets)[0])
  if num_samples < 2:
    raise ValueError(f'num_samples is {num_samples}; it must be at least 2')
  if pairwise:
    labels = _all_labels(classes, 1)
    single = [
        _gain(programs, belief, candidates, target, labels)[0]
        for target in _one_by_one(targets)
    ]
    value = np.mean(single, axis=0)
    error = np.zeros_like(value)
  elif rows * math.log(classes) < math.log(MAX_EXACT) + 1e-9:
    labels = _all_labels(classes, rows)
    value, error = _gain(programs, belief, candidates, targets, labels)
  else:
    key = jax.random.key(seed)
    labels = _sample_labels(programs, belief, targets, num_samples, key)
    value, error = _gain(
        programs, belief, candidates, targets, labels, sampled=True
    )
    logging.info(
        'Information gain estimated from %d of %d^%d joint labels; standard'
        ' error at most %.2g', num_samples, classes, rows, error.max(),
    )
  return (value, error) if return_error else value


def _one_by_one(tree: Any) -> list[Any]:
  """The rows of arrays `[T, ...]`, each as `[1, ...]`."""
  leaves, treedef = jax.tree.flatten(tree)
  return [
      jax.tree.unflatten(treedef, [leaf[[t]] for leaf in leaves])
      for t in range(len(leaves[0]))
  ]


def _gain(
    programs: Programs,
    belief: Belief,
    candidates: Any,
    targets: Any,
    labels: np.ndarray,
    sampled: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Mutual information where Y is one of `labels` `[K, T]`."""
  variables, indices, log_weights = belief
  likelihoods = jnp.zeros((len(indices), len(labels)))
  start = 0
  for piece in programs.pieces(targets):
    chosen = labels[:, start : start + piece.rows]
    start += piece.rows
    padding = ((0, 0), (0, len(piece.mask) - piece.rows))
    likelihoods += programs.run(
        _log_likelihoods,
        variables,
        indices,
        piece.arrays,
        programs.put(np.pad(chosen, padding)),
        piece.mask,
    )
  most = _MAX_SIZE // (len(labels) * programs.model.likelihood.outputs)
  found = []
  for piece in programs.pieces(candidates, most=max(1, min(most, 128))):
    result = programs.run(
        _informations,
        *(variables, indices, log_weights, likelihoods, piece.arrays),
        sampled=sampled,
    )
    found.append([np.asarray(a)[: piece.rows] for a in result])
  gains, errors = map(np.concatenate, zip(*found))
  return gains, errors


def _all_labels(classes: int, rows: int) -> np.ndarray:
  """`[C^T, T]` all joint labels of T targets."""
  return np.indices([classes] * rows).reshape(rows, -1).T


def _sample_labels(
    programs: Programs, belief: Belief, targets: Any, n: int, key: jax.Array
) -> np.ndarray:
  """`[n, T]` joint labels, each of one index that is drawn by its weight."""
  variables, indices, log_weights = belief
  drawn = programs.run(Functions.draw, key, indices, log_weights, n=n)
  found = []
  for number, piece in enumerate(programs.pieces(targets)):
    labels = programs.run(
        _draw_labels,
        *(variables, drawn, piece.arrays, jax.random.fold_in(key, number)),
    )
    found.append(np.asarray(labels)[:, : piece.rows])
  return np.concatenate(found, axis=1)


def _log_likelihoods(
    functions: Functions,
    variables: Variables,
    indices: Index,
    x: Any,
    labels: jax.Array,
    mask: jax.Array,
) -> jax.Array:
  """`[N, K]` of each joint label `[K, T]` at each index."""
  classes = functions.model.likelihood.outputs

  def of_index(index: Index) -> jax.Array:
    outputs = functions.preds(variables, x, index)
    # `[C, T]`: the log-probability of each class.
    table = jax.vmap(
        lambda c: functions.model.likelihood.log_prob(
            outputs, jnp.full(len(mask), c)
        )
    )(jnp.arange(classes))
    found = table[labels, jnp.arange(len(mask))]
    return jnp.where(mask, found, 0.0).sum(-1)

  # As many labels as outputs of a chunk may be looked up at once.
  chunk = min(functions.chunk_size(indices, x), max(1, 2**20 // labels.size))
  return map_over_index(of_index, indices, chunk=chunk)


def _informations(
    functions: Functions,
    variables: Variables,
    indices: Index,
    log_weights: jax.Array,
    likelihoods: jax.Array,
    x: Any,
    *,
    sampled: bool,
) -> tuple[jax.Array, jax.Array]:
  """`[M]` mutual informations of candidates x, and standard errors."""
  log_w = jax.nn.log_softmax(log_weights)
  joint = log_w[:, None] + likelihoods
  outcome = jax.nn.logsumexp(joint, axis=0)  # `[K]` log p(Y)
  # A joint label that no index allows has no posterior, and no probability.
  posterior = jnp.exp(joint - jnp.where(jnp.isneginf(outcome), 0.0, outcome))
  rows, classes = (
      len(jax.tree.leaves(x)[0]),
      functions.model.likelihood.outputs,
  )

  def of_index(pair: Any) -> Any:
    index, *weights = pair
    outputs = functions.preds(variables, x, index)
    return functions.model.likelihood.moments(outputs)[0], *weights

  def add(carry: Any, found: Any) -> Any:
    probs, w, conditional = found
    return (
        carry[0] + jnp.einsum('n,nmc->mc', w, probs),
        carry[1] + jnp.einsum('nk,nmc->kmc', conditional, probs),
    )

  marginal, conditional = reduce_over_index(
      of_index,
      (indices, jnp.exp(log_w), posterior),
      init=(
          jnp.zeros((rows, classes)),
          jnp.zeros((likelihoods.shape[1], rows, classes)),
      ),
      reduce=add,
      chunk=functions.chunk_size(indices, x),
  )
  gains = entropy(marginal) - entropy(conditional)  # `[K, M]`
  if sampled:
    k = len(gains)
    return gains.mean(0), gains.std(0, ddof=1) / math.sqrt(k)
  return jnp.maximum(jnp.exp(outcome) @ gains, 0.0), jnp.zeros(rows)


def _draw_labels(
    functions: Functions,
    variables: Variables,
    indices: Index,
    x: Any,
    key: jax.Array,
) -> jax.Array:
  """`[n, T]` labels of the inputs, one row of each of n indices."""
  keys = jax.random.split(key, len(indices))

  def of_index(pair: Any) -> jax.Array:
    index, key = pair
    probs, _ = functions.model.likelihood.moments(
        functions.preds(variables, x, index)
    )
    return jax.random.categorical(key, jnp.log(probs))

  chunk = functions.chunk_size(indices, x)
  return map_over_index(of_index, (indices, keys), chunk=chunk)
