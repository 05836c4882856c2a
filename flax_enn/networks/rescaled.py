"""Any network with its inputs centred and its outputs scaled."""

from collections.abc import Sequence
import math
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.core import Example, Index, Indexer, Output
from flax_enn.field_checks import check_finite
from flax_enn.networks.backbones.mlp import MLP
from flax_enn.networks.ensemble import Ensemble


class Rescaled(nn.Module):
  """`scale · net((x - mean) / std, z)`, the prior of `net` scaled alike.

  So are its base, and with the square an `extra['variance']` of the outputs.
  (What belongs to the data, such as the mean of a training set, may as well be
  a preprocessing of theirs.)

  Use: a network made for inputs and outputs of order 1, where data are not.
  Cost: none.
  Config: dict(name='rescaled', mean=(0.5, 2.0), std=(0.1, 3.0), scale=10.0,
    net=dict(name='mlp_dropout', hiddens=(50, 50)))
  Source: enn `networks/utils.py`, `scale_enn_output` and `make_centered_enn`.

  Attributes:
    net: any epistemic network.
    mean: of the inputs, a number or one for each entry of their last axis.
    std: standard deviation of the inputs, likewise; above 0, so that a feature
      that never changes has 1.
    scale: factor on the outputs, a number or one for each of them: 1 where an
      output is a log-variance, which no factor turns into that of scaled y.
  """

  net: nn.Module
  mean: float | Sequence[float] = 0.0
  std: float | Sequence[float] = 1.0
  scale: float | Sequence[float] = 1.0

  def __post_init__(self):
    self.mean, self.std, self.scale = map(
        _numbers, (self.mean, self.std, self.scale)
    )
    super().__post_init__()
    check_finite(self, 'mean', 'scale')
    if not all(0 < std < math.inf for std in jax.tree.leaves(self.std)):
      raise ValueError(
          f'the `std` of Rescaled is {self.std}; inputs are divided by it, so'
          ' that each is a finite number above 0 (1 for a feature that never'
          ' changes)'
      )

  @property
  def indexer(self) -> Indexer:
    return self.net.indexer

  @nn.compact
  def __call__(self, x: Any, index: Index, *, train: bool = False) -> Output:
    """Computes `[B, C]` at one index.

    Raises:
      ValueError: inputs are not floats, or numbers are not for such inputs or
        outputs.
    """
    if (self.mean, self.std) != (0.0, 1.0):
      x = jax.tree.map(self._centred, x)
    out = self.net(x, index, train=train)
    scale = jnp.asarray(self.scale)
    if scale.shape not in ((), out.train.shape[1:]):
      raise ValueError(
          f'the `scale` of Rescaled has {len(scale)} numbers, expected one, or'
          f' one for each of {out.train.shape[1]} outputs'
      )
    parts = {'train': out.train, 'prior': out.prior, 'base': out.base}
    extra = dict(out.extra)
    if 'variance' in extra:
      extra['variance'] *= jnp.square(scale)
    scaled = jax.tree.map(lambda part: part * scale, parts)
    return out.replace(**scaled, extra=extra)

  def _centred(self, x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise ValueError(
          f'Rescaled found inputs {x.dtype}{list(x.shape)}, and centres floats'
          ' alone; leave its `mean` at 0 and `std` at 1 for tokens, and have'
          ' other integers preprocessed to floats'
      )
    mean, std = jnp.asarray(self.mean), jnp.asarray(self.std)
    for name, numbers in (('mean', mean), ('std', std)):
      if numbers.shape not in ((), x.shape[-1:]):  # [F, 1] would become [F, F]
        raise ValueError(
            f'the `{name}` of Rescaled is {list(numbers.shape)} beside inputs'
            f' {list(x.shape)}; it is a number, or one for each entry of their'
            ' last axis'
        )
    return (x - mean) / std


def _numbers(values: Any) -> float | tuple[float, ...]:
  """As a field that hashes, whatever kind of array it was."""
  found = np.asarray(values, float).tolist()
  return tuple(found) if isinstance(found, list) else found


def example() -> Example:
  """A tiny ensemble on shifted inputs, for the tests of the laws."""
  x = 2 + 3 * jax.random.normal(jax.random.key(0), (8, 4))
  net = Ensemble(MLP(hiddens=(6,), classes=3), size=8)
  net = Rescaled(net, mean=(2.0, 2.0, 2.0, 1.0), std=3.0, scale=0.5)
  return Example(net, x, index_free=('member',))
