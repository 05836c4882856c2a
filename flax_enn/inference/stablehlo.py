"""What a predictor computes as StableHLO, which jax runs by itself.

Arrays are arguments, in dicts as the safetensors files of a bundle hold them:
`(variables, indices, x)`, and y where it is asked for. B is any number, N that
of the bundle, and there is one device. As many indices are mapped over at once
as a `Predictor` takes for its largest piece, of `MAX_ROWS` rows; memory grows
with B, so cut what has more.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

from flax_enn.checkpoints import layout
from flax_enn.core import Index, Variables
from flax_enn.inference import bundle
from flax_enn.inference.functions import Functions, batch_spec, log_mean
from flax_enn.inference.programs import MAX_ROWS
from flax_enn.model import Model

PLATFORMS = ('cpu', 'cuda', 'tpu')
_KNOWN = (*PLATFORMS, 'rocm')


def export_functions(
    model: Model,
    variables: Variables,
    indices: Mapping[str, np.ndarray],
    key_impl: str | None,
    platforms: Sequence[str],
) -> dict[str, export.Exported]:
  """Lowers each function; nothing is compiled or computed.

  Args:
    model: that predicts.
    variables: of its network, for their shapes.
    indices: from `bundle.index_arrays`, for their shapes.
    key_impl: of indices that are PRNG keys, from there too.
    platforms: to lower for, some of cpu, cuda, tpu and rocm.

  Returns:
    Name -> function: `logits`, `probs` (in regression `mean_and_std`),
    `uncertainty` and `log_joint`, which are the methods of `Predictor`.

  Raises:
    ValueError: there is no such platform, or the network cannot be lowered.
  """
  check_platforms(platforms)
  likelihood = model.likelihood
  (size,) = export.symbolic_shape('B')
  x, y = batch_spec(model.input_spec, size), batch_spec(likelihood.target, size)
  arrays = jax.tree.map(
      lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype),
      (layout.flatten_with_names(variables), dict(indices)),
  )
  chunk = Functions(model).chunk_size(
      indices['indices'], batch_spec(model.input_spec, MAX_ROWS)
  )
  named = {
      'logits': (_logits, x),
      'mean_and_std': (_mean_and_std, x),
      'probs': (_probs, x),
      'uncertainty': (_uncertainty, x),
      'log_joint': (_log_joint, x, y),
  }
  del named['mean_and_std' if likelihood.num_classes else 'probs']
  exported = {}
  for name, (fn, *inputs) in named.items():

    def of_files(flat, z, *inputs, fn=fn):
      return fn(
          Functions(model, chunk),
          bundle.unflatten(flat, variables),
          bundle.as_index(z['indices'], key_impl),
          z['log_weights'],
          *inputs,
      )

    lower = export.export(jax.jit(of_files), platforms=tuple(platforms))
    try:
      exported[name] = lower(*arrays, *inputs)
    except Exception as e:  # whatever a network does with its inputs
      reason = str(e).partition('\n')[0]
      raise ValueError(
          f'{type(model.network).__name__} cannot be exported for any number'
          f' of rows on {", ".join(platforms)} ({type(e).__name__}: {reason});'
          ' leave a platform out, or let no code of the network depend on the'
          ' number of rows'
      ) from e
  return exported


def check_platforms(platforms: Sequence[str]) -> None:
  """Raises a ValueError where there is none, or one that is not known."""
  if not platforms or not {*platforms} <= {*_KNOWN}:
    raise ValueError(
        f'--platforms is {",".join(platforms)!r}; expected some of'
        f' {",".join(_KNOWN)}'
    )


def _logits(
    functions: Functions, variables: Variables, indices: Index, _: Any, x: Any
) -> jax.Array:
  return functions.logits(variables, indices, x)


def _probs(functions: Functions, *args: Any) -> jax.Array:
  return functions.summary(*args)['probs']


def _mean_and_std(functions: Functions, *args: Any) -> Any:
  found = functions.summary(*args)
  return found['mean'], found['std']


def _uncertainty(functions: Functions, *args: Any) -> dict[str, jax.Array]:
  found = functions.summary(*args)
  return {k: v for k, v in found.items() if k not in Functions.PREDICTION}


def _log_joint(
    functions: Functions,
    variables: Variables,
    indices: Index,
    log_weights: jax.Array,
    x: Any,
    y: jax.Array,
) -> jax.Array:
  mask = jnp.ones(y.shape[0], bool)
  found = functions.log_likelihood(variables, indices, x, y, mask)
  return log_mean(log_weights, found)
