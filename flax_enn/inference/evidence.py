"""Evidence: what a predictor was conditioned on, and the posterior over z."""

import dataclasses
from typing import Any, Self

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Index, Variables
from flax_enn.inference import posterior
from flax_enn.inference.functions import Functions, effective_sample_size
from flax_enn.inference.programs import Piece, Programs

# Of the indices, the share below which too few of them count.
MIN_EFFECTIVE = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
  """Labelled examples, and what they say about the indices.

  Attributes:
    indices: `[N, ...]` as they were before any evidence.
    log_weights: `[N]` of these.
    log_likelihood: `[N]` of all examples at each of these.
    examples: pieces of `(features, y)`; features are all that the head of the
      network needs of x, so that the base never runs again.
  """

  indices: Index
  log_weights: jax.Array
  log_likelihood: jax.Array | float = 0.0
  examples: tuple[Piece, ...] = ()

  def extended(
      self, programs: Programs, variables: Variables, x: Any, y: np.ndarray
  ) -> Self:
    """With further examples: `[B, ...]` inputs and their targets."""
    total, examples = self.log_likelihood, list(self.examples)
    for piece in programs.pieces((x, y)):
      x, y = piece.arrays
      features = programs.run(Functions.features, variables, x, gather=False)
      examples.append(Piece((features, y), piece.mask, piece.rows))
      total += programs.run(
          Functions.head_log_likelihood,
          *(variables, self.indices, features, y, piece.mask),
      )
    return dataclasses.replace(
        self, log_likelihood=total, examples=tuple(examples)
    )

  def posterior(
      self, programs: Programs, variables: Variables, refine: bool
  ) -> tuple[Index, jax.Array]:
    """`[N, ...]` indices and their log-weights, given the evidence.

    Args:
      programs: of the model.
      variables: of its network.
      refine: whether indices of which too few count are drawn anew, by
        `posterior.sample`; only the head of the network runs for that.

    Raises:
      ValueError: the evidence has probability 0 at each index.
    """
    weights, n = self.log_weights + self.log_likelihood, len(self.indices)
    if not jnp.isfinite(weights.max()):
      count = sum(piece.rows for piece in self.examples)
      raise ValueError(
          f'the evidence, of {count} examples, has probability 0 at each of the'
          f' {n} indices: the model rules it out. Look for wrong labels, and'
          ' for inputs that were not preprocessed'
      )
    effective = float(effective_sample_size(weights))
    indexer = programs.model.network.indexer
    if effective >= MIN_EFFECTIVE * n or indexer.size is not None:
      return self.indices, weights
    gaussian = indexer.standardize(self.indices[0]) is not None
    if refine and gaussian:
      return programs.run(
          _refined, variables, self.indices, self.log_weights, self._stacked()
      )
    logging.warning(
        'Of %d indices only %.1f count after this evidence; %s',
        *(n, effective),
        'refine=True draws new ones'
        if gaussian
        else f'those of {type(indexer).__name__} cannot be drawn anew: take'
        ' more num_indices',
    )
    return self.indices, weights

  def _stacked(self) -> list[Any]:
    """Examples by their number of rows, `[P, b, ...]`, P a power of two.

    Padded with pieces that are masked, so that few numbers P are compiled.
    """
    sizes: dict[int, list[Piece]] = {}
    for piece in self.examples:
      sizes.setdefault(len(piece.mask), []).append(piece)
    stacks = []
    for _, group in sorted(sizes.items()):
      empty = group[0]._replace(mask=jnp.zeros_like(group[0].mask))
      missing = 2 ** (len(group) - 1).bit_length() - len(group)
      stacks.append(
          jax.tree.map(
              lambda *leaves: jnp.stack(leaves),
              *[(p.arrays, p.mask) for p in group + missing * [empty]],
          )
      )
    return stacks


def _refined(
    functions: Functions,
    variables: Variables,
    indices: Index,
    log_weights: jax.Array,
    stacks: list[Any],
) -> tuple[Index, jax.Array]:
  def log_likelihood(z: Index) -> jax.Array:
    def add(total: jax.Array, piece: Any) -> tuple[jax.Array, None]:
      (features, y), mask = piece
      found = functions.head_log_likelihood(variables, z, features, y, mask)
      return total + found, None

    total = jnp.zeros(len(z))
    for stack in stacks:
      total, _ = jax.lax.scan(add, total, stack)
    return total

  indexer = functions.model.network.indexer
  return posterior.sample(
      jax.random.key(0), indexer, indices, log_weights, log_likelihood
  )
