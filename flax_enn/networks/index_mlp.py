"""A perceptron that reads the index in every hidden layer."""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import Example, Index, Output, promote_to_float32
from flax_enn.field_checks import check_positive
from flax_enn.indexers import GaussianWithUnitIndexer
from flax_enn.networks.checks import check_index
from flax_enn.networks.layers import Dtype, IndexDense, fan_in_init


class IndexMLP(nn.Module):
  """Hidden layers `relu(W h + V z + b)`, z = (1, u), u ~ N(0, I / (D - 1)).

  With `variance_hidden` the network has a second head, of log-variances, for
  the likelihood `gaussian` with `scale=None`: half of the `classes` are means,
  the others log-variances. It reads what enters the last hidden layer, beside a
  projection of the input. With `extra_log_var` its `[B, C]` are
  `extra['log_var']` instead, as in enn: what `DistillVariance` trains, also
  that of classes. A prior is for the means alone where its scale is 0
  for the other outputs; one that is linear in the index leaves out the constant
  entry of z with `EnsemblePrior(..., skip=1)`.

  Use: the plainest network of an index; for regression with a learned noise.
  Cost: a forward of the perceptron for every index; D numbers for each unit.
  Config: dict(name='index_mlp', hiddens=(50, 50), index_dim=11,
    variance_hidden=20)
  Source: enn `networks/index_mlp.py`; no paper.

  Attributes:
    hiddens: widths of the hidden layers, at least one.
    classes: number of outputs C.
    index_dim: D of the index, with its constant entry; at least 2.
    variance_hidden: width of the layers of the second head; None for no such
      head.
    extra_log_var: whether the second head gives a log-variance for each of the
      `classes`, in `extra['log_var']`, and all outputs are means or logits.
    dtype: of the computation; parameters are float32.
  """

  hiddens: Sequence[int]
  classes: int
  index_dim: int
  variance_hidden: int | None = None
  extra_log_var: bool = False
  dtype: Dtype = None

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'hiddens', 'classes', 'variance_hidden')
    if self.index_dim < 2:
      raise ValueError(
          f'the `index_dim` of IndexMLP is {self.index_dim}, with the constant'
          ' entry of its index; set it to at least 2'
      )

  @property
  def indexer(self) -> GaussianWithUnitIndexer:
    return GaussianWithUnitIndexer(self.index_dim)

  @nn.compact
  def __call__(
      self, x: jax.Array, index: Index, *, train: bool = False
  ) -> Output:
    """Computes `[B, C]` at one index `[D]`.

    Raises:
      ValueError: the index has another shape, there is no hidden layer, or
        `classes` is odd where half of the outputs are variances, or there is
        no `variance_hidden` where they are extra.
    """
    del train
    check_index(index, (self.index_dim,), 'IndexMLP (index_dim)')
    if not self.hiddens:
      raise ValueError(
          'IndexMLP has no hidden layer, and would not read its index; set'
          ' `hiddens` to at least one width'
      )
    inputs = sharding.constrain(x.reshape(x.shape[0], -1), 'batch')
    h = before = inputs
    for i, size in enumerate(self.hiddens):
      before = h
      h = nn.relu(IndexDense(size, self.dtype, name=f'layer_{i}')(h, index))
    means = self.classes
    if self.extra_log_var and self.variance_hidden is None:
      raise ValueError(
          'IndexMLP has `extra_log_var` and no head of variances; set'
          ' `variance_hidden` to the width of its layers'
      )
    if self.variance_hidden is not None and not self.extra_log_var:
      means, odd = divmod(self.classes, 2)
      if odd:
        raise ValueError(
            f'IndexMLP has {self.classes} `classes` and a head of variances:'
            ' half of them are means, so that their number is even; take the'
            " likelihood 'gaussian' with scale=None, or set `variance_hidden`"
            ' to None'
        )
    out = self._dense(means, 'mean')(h)
    extra = {}
    if self.variance_hidden is not None:
      log_var = self._variance(inputs, before, means)
      if self.extra_log_var:
        log_var = sharding.constrain(promote_to_float32(log_var), 'batch')
        extra = {'log_var': log_var}
      else:
        out = jnp.concatenate([out, log_var], axis=-1)
    out = sharding.constrain(promote_to_float32(out), 'batch')
    return Output(out, extra=extra)

  def _variance(
      self, inputs: jax.Array, before: jax.Array, means: int
  ) -> jax.Array:
    """The log-variances `[B, means]`."""
    width = self.variance_hidden or 0
    projected = nn.relu(self._dense(width, 'variance_inputs')(inputs))
    h = jnp.concatenate([before, projected], axis=-1)
    h = nn.relu(self._dense(width, 'variance_hidden_layer')(h))
    return self._dense(means, 'variance')(h)

  def _dense(self, size: int, name: str) -> nn.Dense:
    return nn.Dense(
        size, dtype=self.dtype, kernel_init=fan_in_init, name=name
    )


def example() -> Example:
  """A tiny network with both heads, for the tests of the laws."""
  net = IndexMLP(hiddens=(6, 5), classes=4, index_dim=3, variance_hidden=4)
  x = jax.random.normal(jax.random.key(0), (8, 4))
  return Example(net, x)
