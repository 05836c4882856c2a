"""Running a base: its logits and features do not depend on the index."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from flax_enn import sharding
from flax_enn.core import promote_to_float32


def run_base(base: nn.Module, x: Any, *, train: bool) -> tuple[Any, Any]:
  """Logits `[B, C]` and features of a backbone.

  Raises:
    ValueError: it returns something else.
  """
  found = base(x, train=train)
  pair = isinstance(found, tuple) and len(found) == 2
  if not pair or not isinstance(found[1], Mapping):
    what = type(found).__name__
    what = 'one array' if isinstance(found, jax.Array) else f'a {what}'
    raise ValueError(
        f'the base {type(base).__name__} returned {what}; a'
        ' base returns logits [B, C] and its features by name: `return logits,'
        " {'hidden': h}`, or {} where it has none to show"
    )
  return found


def run_features(
    base: nn.Module,
    x: Any,
    names: Sequence[str],
    owner: str,
    *,
    train: bool,
    stop_gradient: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Runs a base once for any number of indices.

  It is spread over every device, its features and logits then gathered to where
  the index-dependent work is.

  Args:
    base: a backbone, `(x, *, train) -> (logits [B, C], features)`.
    x: `[B, ...]` inputs.
    names: of the features that make up phi(x).
    owner: name of the network, for errors.
    train: as in every network.
    stop_gradient: whether what is computed from phi leaves the base alone.

  Returns:
    Logits `[B, C]`, float32, and phi `[B, F]`: the features, flattened and
    concatenated in this order.

  Raises:
    ValueError: there is no feature of that name, or none is named.
  """
  x = sharding.constrain(x, 'base_batch')
  logits, features = run_base(base, x, train=train)
  missing = [name for name in names if name not in features]
  if missing or not names:
    raise ValueError(
        f'features {list(names)} of {owner}: the base exposes'
        f' {sorted(features)}; name some of these'
    )
  parts = [features[name] for name in names]
  phi = jnp.concatenate([p.reshape(p.shape[0], -1) for p in parts], axis=-1)
  phi = jax.lax.stop_gradient(phi) if stop_gradient else phi
  # Laid out as the base first: the last layer, which reads what is gathered,
  # would else be repeated where it is.
  logits, phi = sharding.constrain((logits, phi), 'base_batch')
  logits, phi = sharding.constrain((logits, phi), 'batch')
  return promote_to_float32(logits), phi
