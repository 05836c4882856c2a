"""From examples to a batch, with what is checked on the way."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from flax_enn.core import BLANK, Batch
from flax_enn.data.base import DataSpec, Element


@dataclasses.dataclass(frozen=True)
class Padded:
  """A source with padding examples of mask 0 at its end.

  Attributes:
    source: the examples.
    length: how many there are with padding.
  """

  source: Any  # a Source, or a stage of Grain
  length: int

  def __len__(self) -> int:
    return self.length

  def __getitem__(self, index: int) -> Element:
    if index < len(self.source):
      return self.source[index]
    return self.padding_example

  @functools.cached_property
  def padding_example(self) -> Element:
    """All zeros, of the form of an example."""
    like = self.source[0]
    values = {k: like[k] for k in ('x', 'y', 'weight') if k in like}
    zeros = jax.tree.map(np.zeros_like, values)
    return {**zeros, 'id': np.int32(-1), 'mask': 0.0}


def abstract_batch(spec: DataSpec, batch_size: int, where: Any) -> Batch:
  """The shapes, dtypes and shardings of a global batch.

  Args:
    spec: of the data.
    batch_size: B.
    where: sharding of every leaf.
  """

  def leaf(one: Any) -> jax.ShapeDtypeStruct:
    shape = (batch_size, *one.shape)
    return jax.ShapeDtypeStruct(shape, one.dtype, sharding=where)

  number = jax.ShapeDtypeStruct((), np.float32)
  return Batch(
      x=jax.tree.map(leaf, spec.input_spec),
      y=leaf(spec.likelihood.target),
      weight=leaf(number),
      id=leaf(jax.ShapeDtypeStruct((), np.int32)),
      mask=leaf(number),
  )


def blank_batch(abstract: Batch) -> Batch:
  """A batch whose part on this host says that there is nothing to train on.

  Args:
    abstract: the shapes, dtypes and shardings, from `abstract_batch`.
  """

  def filled(leaf: jax.ShapeDtypeStruct, value: int = 0) -> jax.Array:
    whole = np.broadcast_to(np.array(value, leaf.dtype), leaf.shape)
    return jax.make_array_from_callback(
        leaf.shape, leaf.sharding, lambda part: whole[part]
    )

  blank = jax.tree.map(filled, abstract)
  return blank.replace(id=filled(abstract.id, BLANK))


# The ids of examples that could not be read, with what was wrong.
Problems = tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True)
class Batcher:
  """Stacks examples to a batch, and lets none pass that would spoil a run.

  Attributes:
    dataset: the data set as errors name it.
    split: likewise.
    spec: what the data must be.
  """

  dataset: str
  split: str
  spec: DataSpec

  def __call__(self, elements: Sequence[Element]) -> tuple[Batch, Problems]:
    """A batch `[B, ...]`, and which of its examples have stand-ins."""
    problems = tuple(
        (int(e['id']), e['problem']) for e in elements if 'problem' in e
    )
    return self.stack(elements), problems

  def stack(self, elements: Sequence[Element]) -> Batch:
    """A batch `[B, ...]`.

    Raises:
      ValueError: examples that do not fit each other, or the spec.
    """
    batch = Batch(
        x=self._stacked('x', elements),
        y=self._stacked('y', elements),
        weight=np.array([e.get('weight', 1.0) for e in elements], np.float32),
        id=np.array([e['id'] for e in elements], np.int32),
        mask=np.array([e.get('mask', 1.0) for e in elements], np.float32),
    )
    return self.checked(batch)

  def checked(self, batch: Batch) -> Batch:
    """A batch of arrays, with y in the dtype of the likelihood.

    Raises:
      ValueError: examples that do not fit the spec.
    """
    self._check_form('x', batch.x, self.spec.input_spec)
    for name in ('x', 'y', 'weight'):
      for leaf in jax.tree.leaves(getattr(batch, name)):
        bad = ~np.isfinite(leaf).reshape(len(batch.id), -1).all(axis=1)
        self._check(batch, bad, f'values in {name} that are not finite')
    self._check(batch, batch.weight < 0, 'weights below 0')
    return batch.replace(y=self._targets(batch))

  def _stacked(self, name: str, elements: Sequence[Element]) -> Any:
    values = [e[name] for e in elements]
    try:
      return jax.tree.map(lambda *leaves: np.stack(leaves), *values)
    except ValueError as e:
      forms = [jax.tree.map(np.shape, v) for v in values]
      usual = max(forms, key=forms.count)
      odd = [i for i, form in enumerate(forms) if form != usual]
      raise ValueError(
          f'the split {self.split!r} of {self.dataset} has {name} of the shape'
          f' {forms[odd[0]]} in the examples with id'
          f' {[int(elements[i]["id"]) for i in odd]}, and {usual} in others.'
          ' Correct the data or the fields of the data set'
      ) from e

  def _targets(self, batch: Batch) -> np.ndarray:
    """Y in the dtype of the likelihood; integers and floats are not mixed."""
    target, likelihood = self.spec.likelihood.target, self.spec.likelihood
    y = batch.y
    integers = np.issubdtype(y.dtype, np.integer)
    if integers != np.issubdtype(target.dtype, np.integer):
      kind = 'integers' if integers else 'floats'
      raise ValueError(
          f'the split {self.split!r} of {self.dataset} has {kind} as y'
          f' ({y.dtype}{list(y.shape[1:])}), but {likelihood} needs'
          f' {target.dtype}{list(target.shape)}: class labels are integers, and'
          ' targets of a regression floats. Correct the data, or take'
          ' another likelihood'
      )
    self._check_form('y', y.astype(target.dtype), target)
    bad, expected = likelihood.check_targets(y)
    bad = bad & (batch.mask > 0)
    if bad.any():
      value = y[bad][0].tolist()
      found = f'the {"label" if integers else "target"} {value}, but {expected}'
      self._check(batch, bad, found)
    return y.astype(target.dtype)

  def _check_form(self, name: str, values: Any, spec: Any) -> None:
    found = jax.tree.map(lambda a: f'{a.dtype}{list(a.shape[1:])}', values)
    expected = jax.tree.map(lambda s: f'{s.dtype}{list(s.shape)}', spec)
    if found != expected:
      raise ValueError(
          f'the split {self.split!r} of {self.dataset} has {name} of the form'
          f' {found}, but its spec says {expected}. Correct the data or'
          ' the fields of the data set'
      )

  def _check(self, batch: Batch, bad: np.ndarray, found: str) -> None:
    if bad.any():
      raise ValueError(
          f'the split {self.split!r} of {self.dataset} has {found}; see the'
          f' examples with id {batch.id[bad].tolist()}. Correct the data or'
          ' the fields of the data set'
      )
