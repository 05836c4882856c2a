"""Layers of a base that differ between the functions of a network.

A base is written as it is anywhere else; what its dense layers compute is
changed from outside, so that any backbone (and a frozen one) can have members
that share most of their weights.
"""

from collections.abc import Callable, Sequence
import re
from typing import Any

from flax import linen as nn
import jax

from flax_enn import sharding
from flax_enn.networks.features import run_base
from flax_enn.networks.layers import BatchNorm

# What a layer computes from its inputs.
Layer = Callable[[jax.Array], jax.Array]


def run_adapted(
    base: nn.Module,
    x: Any,
    adapter: Callable[[str], Callable[[Layer, jax.Array], jax.Array]],
    kinds: Sequence[type],
    layers: str,
    *,
    train: bool,
) -> jax.Array:
  """Runs a base with some of its layers adapted; logits `[B, C]`.

  What lies before the first of them does not depend on the index, runs once for
  any number of indices, and is spread over every device.

  Args:
    base: a backbone, a submodule of the module that calls this.
    x: `[B, ...]` inputs.
    adapter: makes the adapter of a layer from its name, the path of it in the
      base joined by `_`; called with what the layer computes, and its inputs.
    kinds: classes of the layers that can be adapted.
    layers: regular expression of the names of those that are.
    train: as in every network.

  Raises:
    ValueError: no layer has such a name, or batch statistics that are behind
      an adapted layer are to be trained.
  """
  known, adapters, prefix = [], {}, base.path

  def intercept(
      layer: Layer,
      args: Any,
      kwargs: Any,
      context: nn.module.InterceptorContext,
  ) -> Any:
    module = context.module
    if train and adapters and _takes_statistics(module):
      name = '_'.join(module.path[len(prefix) :])
      raise ValueError(
          f'the batch statistics of {name!r} would depend on the index, behind'
          f' the adapted layers {sorted(adapters)}; take a base that is Frozen,'
          ' or set `layers` to layers behind all batch norms (such as the last)'
      )
    if context.method_name != '__call__' or type(module) not in kinds:
      return layer(*args, **kwargs)
    path = module.path
    if path[: len(prefix)] == prefix:  # of a frozen base they begin anew
      path = path[len(prefix) :]
    name = '_'.join(path)
    known.append(name)
    if not re.fullmatch(layers, name):
      return layer(*args, **kwargs)
    if name not in adapters:
      adapters[name] = adapter(name)
    return adapters[name](layer, sharding.constrain(args[0], 'batch'))

  x = sharding.constrain(x, 'base_batch')
  with nn.intercept_methods(intercept):
    logits, _ = run_base(base, x, train=train)
  if not adapters:
    raise ValueError(
        f'layers is {layers!r}, which is the name of none of those that can be'
        f' adapted: {sorted(set(known))}'
    )
  return sharding.constrain(logits, 'batch')


def _takes_statistics(module: nn.Module) -> bool:
  """Whether this is a batch norm that is to update its statistics."""
  return (
      isinstance(module, (nn.BatchNorm, BatchNorm))
      and module.is_mutable_collection('batch_stats')
      and not module.is_initializing()
  )
