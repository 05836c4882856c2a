"""Frozen: a network that no optimizer ever touches."""

from typing import Any

from flax import linen as nn


class Frozen(nn.Module):
  """Runs `net` on variables that live in the collection `frozen`.

  They get no gradient, no weight decay and no optimizer slot, yet they are
  saved, sharded and restored like all others. Under the module's own name,
  `frozen` holds the collections of `net` (`params`, `batch_stats`, …). The
  network always runs in inference mode: its batch statistics stay as they are.

  Attributes:
    net: any module; its weights are drawn from the rng stream `frozen`.
  """

  net: nn.Module

  @nn.compact
  def __call__(self, *args: Any, train: bool = False, **kwargs: Any) -> Any:
    """Calls `net(*args, **kwargs)`; `train` is taken and has no effect."""
    del train
    net = self.net.clone(parent=None, name=None)
    if self.is_initializing() and not self.has_variable('frozen', 'params'):
      variables = net.init(self.make_rng('frozen'), *args, **kwargs)
      for collection, values in variables.items():
        self.put_variable('frozen', collection, values)
    return net.apply(self.variables.get('frozen', {}), *args, **kwargs)
