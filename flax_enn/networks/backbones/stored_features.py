"""A base that was run before: what it computed is the input."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn
import jax


class StoredFeatures(nn.Module):
  """Takes logits and features as they were stored, and computes nothing.

  In place of a frozen base where the data are those of `flax_enn.features`: a
  network on it has the outputs that it has on the base itself. There are no
  parameters.
  """

  @nn.compact
  def __call__(
      self, x: Any, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Maps `{'logits': [B, C], name: [B, ...]}` to logits and features.

    Raises:
      ValueError: x is something else.
    """
    del train
    if not isinstance(x, Mapping) or 'logits' not in x:
      found = jax.tree.map(lambda leaf: f'{leaf.dtype}{list(leaf.shape)}', x)
      raise ValueError(
          f'StoredFeatures got x {found}; expected the logits and features of'
          " a base by name, {'logits': [B, C], …}, such as the data set"
          " 'features' has them: change config.dataset, or take the base itself"
      )
    return x['logits'], dict(x)
