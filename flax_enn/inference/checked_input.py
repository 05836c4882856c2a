"""Checks what a predictor is given, before anything is compiled.

Inputs become numpy arrays; results are jax arrays where the inputs were.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flax_enn.model import Model


def inputs(model: Model, x: Any) -> Any:
  """`[B, ...]` numpy inputs of the model's own dtypes.

  Raises:
    ValueError: they are of another form.
  """
  x, spec = jax.tree.map(np.asarray, x), model.input_spec
  found, expected = check_form(spec, x)
  rows = {len(a) for a in jax.tree.leaves(x)}
  if len(rows) != 1 or rows == {0}:
    raise ValueError(f'inputs are {found}; expected {expected}, with B >= 1')
  return jax.tree.map(lambda a, s: a.astype(s.dtype, copy=False), x, spec)


def as_given(results: Any, x: Any) -> Any:
  """Numpy results as jax arrays where the inputs x were jax arrays."""
  if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x)):
    return jax.tree.map(jnp.asarray, results)
  return results


def check_form(spec: Any, x: Any) -> tuple[Any, Any]:
  """The forms of arrays `[B, ...]` and of what a network takes, in words.

  Raises:
    ValueError: they are not the same.
  """
  expected = jax.tree.map(lambda s: f'{s.dtype}[B, {_sizes(s.shape)}]', spec)
  found = jax.tree.map(lambda a: f'{a.dtype}[{_sizes(a.shape)}]', x)
  wrong = jax.tree.structure(x) != jax.tree.structure(spec)
  leaves = list(zip(jax.tree.leaves(x), jax.tree.leaves(spec)))
  wrong = wrong or any(
      a.shape[1:] != s.shape or not a.ndim or _kind(a.dtype) != _kind(s.dtype)
      for a, s in leaves
  )
  if wrong:
    hint = ''
    if all(a.shape == s.shape for a, s in leaves):
      hint = '; one input is a batch of one: x[None]'
    elif any(a.dtype == np.uint8 for a, _ in leaves):
      hint = '; bytes of an image become an input by `preprocess(image)`'
    raise ValueError(f'inputs are {found}; expected {expected}{hint}')
  return found, expected


def examples(model: Model, x: Any, y: Any) -> tuple[Any, np.ndarray]:
  """Inputs and their targets `[B, ...]`, as numpy.

  Raises:
    ValueError: they are of another form, or a target is impossible.
  """
  x, y = inputs(model, x), targets(model, y, 'y')
  rows = len(jax.tree.leaves(x)[0])
  if len(y) != rows:
    raise ValueError(f'there are {rows} inputs x, but {len(y)} targets y')
  return x, y


def targets(model: Model, y: Any, name: str) -> np.ndarray:
  """`[B, ...]` targets as numpy, of the likelihood's dtype.

  Raises:
    ValueError: they are of another form, or one is impossible; with their name.
  """
  y, target = np.asarray(y), model.likelihood.target
  same = y.ndim and y.shape[1:] == target.shape
  if not same or _kind(y.dtype) != _kind(target.dtype):
    raise ValueError(
        f'{name} is {y.dtype}[{_sizes(y.shape)}]; expected {target.dtype}'
        f'[{_sizes(("B", *target.shape))}], as of {model.likelihood}'
    )
  bad, expected = model.likelihood.check_targets(y)
  bad = bad | ~np.isfinite(y.reshape(len(y), -1)).all(-1)
  if bad.any():
    row = int(bad.argmax())
    raise ValueError(f'{name}[{row}] is {y[row]}; {expected}')
  return y.astype(target.dtype)


def weights(log_weights: Any, n: int) -> np.ndarray:
  """`[N]` log-weights of the indices as numpy; equal ones where None is given.

  Raises:
    ValueError: they are of another form, or no index has any weight.
  """
  found = np.zeros(n) if log_weights is None else log_weights
  found = np.asarray(found, np.float32)
  if found.shape != (n,) or not np.isfinite(found.max()):
    raise ValueError(
        f'log_weights are {log_weights}; expected one of each of the {n}'
        ' indices, and one of them at least finite'
    )
  return found


def check_indices(indices: Any, own: Any) -> None:
  """Raises a ValueError where indices are not of the form of others."""
  form = [(i.dtype, i.shape[1:]) for i in (indices, own)]
  if form[0] != form[1] or not indices.shape[0]:
    raise ValueError(
        f'indices are {indices.dtype}[{_sizes(indices.shape)}]; expected'
        f' {own.dtype}[{_sizes(("n", *own.shape[1:]))}], as from'
        ' model.network.indexer.sample(key, n)'
    )


def need_classes(model: Model, classes: bool, method: str) -> None:
  """Raises a ValueError where a method is not for this likelihood."""
  if (model.likelihood.num_classes is not None) != classes:
    kind = 'classes' if classes else 'numbers'
    raise ValueError(
        f'{method} is for predictions of {kind}; the likelihood of this model'
        f' is {model.likelihood}'
    )


def _kind(dtype: Any) -> str:
  """Integers are not floats; their widths do not matter."""
  if jax.dtypes.issubdtype(dtype, np.floating):
    return 'float'
  return 'int' if np.issubdtype(dtype, np.integer) else str(dtype)


def _sizes(shape: tuple[Any, ...]) -> str:
  return ', '.join(map(str, shape))
