"""Any Linen module as a backbone."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax

# Arguments of modules that are the opposite of `train`.
_OPPOSITES = ('deterministic', 'use_running_average')


class LinenModule(nn.Module):
  """A module of any library whose output is logits `[B, C]`, as a backbone.

  Its features are outputs of its submodules, by their path in the tree of its
  parameters:

    LinenModule(nn.Sequential((nn.Dense(50), nn.relu, nn.Dense(10))),
                features={'hidden': 'layers_0'})
    dict(name='linen_module', net=dict(name='package.module:Class', …),
         features=dict(hidden='block_3/mlp'), mode='deterministic')

  Attributes:
    net: the module, `x -> logits [B, C]`.
    features: name of a feature -> path of the submodule that returns it.
    mode: name of the argument of `net` that says whether it is trained
      (`train`, `is_training`) or is not (`deterministic`,
      `use_running_average`); '' if it has none.
  """

  net: nn.Module
  features: Mapping[str, str] = dataclasses.field(default_factory=dict)
  mode: str = ''

  @nn.compact
  def __call__(
      self, x: Any, *, train: bool = False
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Maps `[B, ...]` to logits `[B, C]` and the features.

    Raises:
      ValueError: no submodule has the path of a feature, or the output is no
        array.
    """
    depth, found = len(self.path) + 1, {}

    def keep(call, args, kwargs, context):
      out = call(*args, **kwargs)
      if context.method_name == '__call__':
        found['/'.join(context.module.path[depth:])] = out
      return out

    mode = {self.mode: train != (self.mode in _OPPOSITES)} if self.mode else {}
    with nn.intercept_methods(keep):
      logits = self.net(x, **mode)
    name = type(self.net).__name__
    if not isinstance(logits, jax.Array):
      raise ValueError(
          f'net is {name}, which returned a {type(logits).__name__}; it must'
          ' return logits [B, C]: set the field by which it does, or wrap it'
      )
    if missing := sorted(set(self.features.values()) - set(found)):
      raise ValueError(
          f'features has the paths {missing}, but the submodules of {name} that'
          f' were called are {sorted(filter(None, found))}'
      )
    return logits, {k: found[path] for k, path in self.features.items()}
