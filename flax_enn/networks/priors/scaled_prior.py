"""A prior with a scale."""

from collections.abc import Sequence
import dataclasses

from flax import linen as nn

from flax_enn.field_checks import check_finite


@dataclasses.dataclass(frozen=True)
class ScaledPrior:
  """`scale · net`, for `WithPrior`.

  Attributes:
    net: any prior: see `WithPrior`.
    scale: a number, or one for each output (0 for outputs without a prior).
  """

  net: nn.Module
  scale: float | Sequence[float] = 1.0

  def __post_init__(self):
    check_finite(self, 'scale')
