"""What a loss needs of a network, found by name or refused in a sentence."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flax_enn.core import Output, Variables


def owner_of(
    variables: Variables, names: tuple[str, ...], loss: str
) -> Mapping[str, Any]:
  """The one part of the parameters that holds all these names.

  A network may stand inside others, each of which is a level of the tree.

  Raises:
    ValueError: none does, or several.
  """
  params = variables['params']
  found = list(_holding(params, names, ''))
  if not found:
    raise ValueError(
        f'{loss} needs the parameters {list(names)}, but the network has'
        f' {sorted(params)}; take a network whose weights have a posterior of'
        ' that form, or another loss'
    )
  if len(found) > 1:
    raise ValueError(
        f'{loss} needs the parameters {list(names)} of one posterior, but the'
        f' network has them in {sorted(path for path, _ in found)}; take a'
        ' network with one such part'
    )
  return found[0][1]


def trees(
    variables: Variables, names: tuple[str, ...], loss: str
) -> list[Any]:
  """Those trees of the parameters: see `owner_of`."""
  params = owner_of(variables, names, loss)
  return [params[name] for name in names]


def _holding(
    params: Any, names: tuple[str, ...], path: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
  if not isinstance(params, Mapping):
    return
  if all(name in params for name in names):
    yield path or '/', params
    return
  for name, inner in params.items():
    yield from _holding(inner, names, f'{path}/{name}')


def extras(outputs: Output, names: tuple[str, ...], loss: str) -> list[Any]:
  """Those extra outputs of a network.

  Raises:
    ValueError: it does not emit all of them.
  """
  if missing := [name for name in names if name not in outputs.extra]:
    raise ValueError(
        f'{loss} needs the extra outputs {missing}, but those of the network'
        f' are {sorted(outputs.extra)}; take a network that emits them, or'
        ' another loss'
    )
  return [outputs.extra[name] for name in names]


def mean_and_drawn(outputs: Any, loss: str) -> tuple[Output, Output]:
  """The outputs at the mean index, `[1, ...]`, and at many, `[N, ...]`.

  Raises:
    ValueError: the objective does not hand over both.
  """
  names = ('mean', 'drawn')
  named = isinstance(outputs, Mapping)
  if not named or not all(name in outputs for name in names):
    found = sorted(outputs) if named else 'one output without a name'
    raise ValueError(
        f'{loss} compares the outputs {list(names)}, and was given {found}; set'
        ' across=True and indices={"mean": MeanIndex(), "drawn": None} in its'
        ' objective'
    )
  return outputs['mean'], outputs['drawn']


def log_softplus(r: jax.Array) -> jax.Array:
  """The logarithm of a deviation, finite where softplus has underflowed to 0.

  Below -20 it is r to all digits.
  """
  return jnp.log(jax.nn.softplus(jnp.maximum(r, -20))) + jnp.minimum(r + 20, 0)
