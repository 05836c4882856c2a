"""What a predictor computes, as functions of arrays alone.

They reduce over the index in chunks; the predictor compiles them, and `export`
writes them down. `log_weights` `[N]` are those of the indices, not necessarily
normalized.
"""

import dataclasses
from typing import Any, ClassVar

from flax import struct
import jax
import jax.numpy as jnp

from flax_enn.core import Index, Variables, promote_to_float32
from flax_enn.likelihoods.base import Stats, running
from flax_enn.model import Model
from flax_enn.partial_evaluation import split_at_index
from flax_enn.sampling import map_over_index, reduce_over_index

# Elements of the outputs `[n, B, C]` of a chunk of indices, at most: it bounds
# memory whatever N is, and is enough to keep a CPU, or an accelerator, busy.
_CHUNK_SIZE, _ACCELERATOR_CHUNK_SIZE = 2**20, 2**24
_LEAST_ROWS = 32  # a head has a kernel of each index, however few the inputs


class Summary(struct.PyTreeNode):
  """What is carried over indices: the likelihood's statistics, and votes.

  Attributes:
    stats: of the predictive distribution.
    votes: `[B, C]` weighted share of the indices whose most likely class is
      each; None where there are no classes.
  """

  stats: Stats
  votes: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Functions:
  """The functions of one model.

  Attributes:
    model: that predicts.
    chunk: indices that are mapped over at once, at most; None bounds the
      outputs of a chunk instead.
  """

  # Of a `summary`, what is the prediction; the rest is how uncertain it is.
  PREDICTION: ClassVar[tuple[str, ...]] = ('probs', 'mean', 'std')

  model: Model
  chunk: int | None = None

  def logits(self, variables: Variables, indices: Index, x: Any) -> jax.Array:
    """`[N, B, C]` outputs of the network in float32, without temperature."""
    return map_over_index(
        lambda index: self.preds(variables, x, index),
        indices,
        chunk=self.chunk_size(indices, x),
    )

  def summary(
      self, variables: Variables, indices: Index, log_weights: jax.Array, x: Any
  ) -> dict[str, jax.Array]:
    """The predictive distribution and its uncertainty, averaged over indices.

    Returns:
      Of classes: `probs` `[B, C]`, and `[B]` each `total` (the entropy of
      probs), `aleatoric` (the mean entropy at one index), `epistemic` (their
      difference: the mutual information of label and index, Houlsby et al.,
      arXiv:1112.5745), in nats, `max_probability`, `margin` (between the two
      most probable classes) and `variation_ratio` (the share of indices whose
      most likely class is not that of most; Freeman, 1965). Of regression:
      `mean`, `std`, and the variances `total`, `aleatoric` and `epistemic`,
      `[B, dim]` each.
    """
    likelihood = self.model.likelihood
    rows = jax.tree.leaves(x)[0].shape[0]
    classes = likelihood.num_classes

    def update(carry: Summary, found: Any) -> Summary:
      outputs, log_w = found
      votes = carry.votes
      if votes is not None:
        _, old, new = running(carry.stats.log_total, log_w)
        chosen = jax.nn.one_hot(outputs.argmax(-1), outputs.shape[-1])
        votes = old * votes + jnp.einsum('n,nbc->bc', new, chosen)
      return Summary(carry.stats.update(outputs, log_w), votes)

    found = reduce_over_index(
        lambda pair: (self.preds(variables, x, pair[0]), pair[1]),
        (indices, log_weights),
        init=Summary(
            likelihood.init_stats(rows),
            jnp.zeros((rows, classes)) if classes else None,
        ),
        reduce=update,
        chunk=self.chunk_size(indices, x),
    )
    stats = found.stats
    aleatoric, epistemic = stats.uncertainty()
    spread = {
        'total': aleatoric + epistemic,
        'aleatoric': aleatoric,
        'epistemic': epistemic,
    }
    if found.votes is None:
      return {'mean': stats.mean, 'std': jnp.sqrt(spread['total']), **spread}
    top = jax.lax.top_k(stats.mean, min(2, stats.mean.shape[-1]))[0]
    return {
        'probs': stats.mean,
        **spread,
        'max_probability': top[:, 0],
        'margin': top[:, 0] - top[:, 1:].sum(-1),
        'variation_ratio': jnp.maximum(1 - found.votes.max(-1), 0.0),
    }

  def log_likelihood(
      self,
      variables: Variables,
      indices: Index,
      x: Any,
      y: jax.Array,
      mask: jax.Array,
  ) -> jax.Array:
    """`[N]` the sum over unmasked examples of `log p(y | x, z)`, in nats."""
    return map_over_index(
        lambda index: self.log_prob(self.preds(variables, x, index), y, mask),
        indices,
        chunk=self.chunk_size(indices, x),
    )

  def log_marginals(
      self,
      variables: Variables,
      indices: Index,
      log_weights: jax.Array,
      examples: tuple[Any, jax.Array],
  ) -> jax.Array:
    """`[B]` of examples (x, y): each log of the mean probability of its y."""
    x, y = examples
    likelihood = self.model.likelihood

    def add(total: jax.Array, found: Any) -> jax.Array:
      outputs, log_w = found
      log_probs = log_w[:, None] + likelihood.log_prob(outputs, y)
      return jnp.logaddexp(total, jax.nn.logsumexp(log_probs, axis=0))

    total = reduce_over_index(
        lambda pair: (self.preds(variables, x, pair[0]), pair[1]),
        (indices, log_weights),
        init=jnp.full(len(y), -jnp.inf),
        reduce=add,
        chunk=self.chunk_size(indices, x),
    )
    return total - jax.nn.logsumexp(log_weights)

  def split(self, variables: Variables, x: Any) -> tuple[Any, Any]:
    """`features(x)` and `head(features, index)`; see `split_at_index`."""
    indexer = self.model.network.indexer
    index = jax.eval_shape(lambda: indexer.sample(jax.random.key(0), 1)[0])
    return split_at_index(
        lambda x, index: self.preds(variables, x, index), x, index
    )

  def features(self, variables: Variables, x: Any) -> Any:
    """All that the head of the network needs of x, a list of arrays."""
    first, _ = self.split(variables, x)
    return first(x)

  def head_log_likelihood(
      self,
      variables: Variables,
      indices: Index,
      features: Any,
      y: jax.Array,
      mask: jax.Array,
  ) -> jax.Array:
    """As `log_likelihood`, from `features(x)`: the head alone runs."""
    x = batch_spec(self.model.input_spec, len(mask))
    _, head = self.split(variables, x)
    return map_over_index(
        lambda index: self.log_prob(head(features, index), y, mask),
        indices,
        chunk=self.chunk_size(indices, x),
    )

  def draw(
      self, key: jax.Array, indices: Index, log_weights: jax.Array, *, n: int
  ) -> Index:
    """`[n, ...]` of the indices, drawn by their weights."""
    return indices[jax.random.categorical(key, log_weights, shape=(n,))]

  def log_prob(
      self, outputs: jax.Array, y: jax.Array, mask: jax.Array
  ) -> jax.Array:
    """`[]` the sum over unmasked examples of `log p(y | outputs)`."""
    return jnp.where(mask, self.model.likelihood.log_prob(outputs, y), 0).sum()

  def preds(self, variables: Variables, x: Any, index: Index) -> jax.Array:
    """`[B, C]` outputs of the network at one index, in float32."""
    return promote_to_float32(self.model.apply(variables, x, index).preds)

  def chunk_size(self, indices: Any, x: Any) -> int:
    """How many of the indices are mapped over at once for B inputs."""
    if (chunk := self.chunk) is None:
      rows = max(jax.tree.leaves(x)[0].shape[0], _LEAST_ROWS)
      on_cpu = jax.default_backend() == 'cpu'
      size = _CHUNK_SIZE if on_cpu else _ACCELERATOR_CHUNK_SIZE
      chunk = size // (rows * self.model.likelihood.outputs)
    return max(1, min(chunk, len(indices)))


def batch_spec(spec: Any, rows: Any) -> Any:
  """Specs of `[B, ...]`, B possibly a symbol, from those of one example."""
  return jax.tree.map(
      lambda s: jax.ShapeDtypeStruct((rows, *s.shape), s.dtype), spec
  )


def log_mean(log_weights: jax.Array, values: jax.Array) -> jax.Array:
  """`[...]` log of the weighted mean of `exp(values)`, `[N, ...]`."""
  weights = log_weights.reshape(-1, *[1] * (values.ndim - 1))
  total = jax.nn.logsumexp(weights + values, axis=0)
  return total - jax.nn.logsumexp(log_weights)


def effective_sample_size(log_weights: jax.Array) -> jax.Array:
  """`[]` number of equal weights that average as well: (sum w)^2 / sum w^2.

  Kong, Liu and Wong (1994).
  """
  return jnp.exp(
      2 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2 * log_weights)
  )
