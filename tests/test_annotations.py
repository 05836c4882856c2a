"""Types of a config, from annotations."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from flax_enn import annotations


class Part:
  """What is built from a section."""


GOOD = [
    (3, int, 3),
    (np.int64(3), int, 3),
    (3, float, 3),
    (np.float32(0.5), float, 0.5),
    (np.bool_(True), bool, True),
    (None, int | None, None),
    ([1, 2], Sequence[int], [1, 2]),
    ((1, 2), tuple[int, ...], (1, 2)),
    ((1, 2.5), tuple[int, float], (1, 2.5)),
    (np.array([1, 2]), Sequence[int], (1, 2)),
    ({'a': 1}, Mapping[str, Any], {'a': 1}),
    (2, float | Sequence[float], 2),
    ('x', Any, 'x'),
    ((1, 'x'), Part | tuple[Any, Any], (1, 'x')),
]
BAD = [
    ('False', bool, 'True or False'),
    (1, bool, 'True or False'),
    (True, int, 'an integer'),
    (2.0, int, 'an integer'),
    ('2', int | None, 'an integer or None'),
    (math.nan, float, 'a finite number'),
    (np.float32('inf'), float, 'a finite number'),
    (1j, float, 'a finite number'),
    (True, float, 'a finite number'),
    (3, str, 'text'),
    ('ab', Sequence[str], 'a list, of which each is text'),
    (5, Sequence[int], 'a list, of which each is an integer'),
    ((1, 'x'), Sequence[int], 'a list, of which each is an integer'),
    ((1, 2, 3), tuple[int, int], '(an integer, an integer)'),
    (5, Mapping[str, Any], 'a section of named entries'),
    (5, Part, 'a section with a `name`'),
    (None, Part, 'a section with a `name`'),
    (5, tuple[Any, int], '(anything, an integer)'),
    ('a', Part | tuple[Any], 'a section with a `name` or (anything)'),
]


@pytest.mark.parametrize('value, annotation, expected', GOOD)
def test_what_fits(value, annotation, expected):
  found = annotations.checked(value, annotation, 'config.x')
  assert found == expected and not isinstance(found, (np.generic, np.ndarray))


@pytest.mark.parametrize('value, annotation, words', BAD)
def test_what_does_not_fit(value, annotation, words):
  with pytest.raises(ValueError) as caught:
    annotations.checked(value, annotation, 'config.x')
  plain = annotations.plain(value)
  assert str(caught.value) == f'config.x is {plain!r}; expected {words}'


def test_an_instance_of_a_class_is_not_looked_into():
  part = Part()
  assert annotations.checked(part, Part, 'config.x') is part


def test_fields_of_a_dataclass():
  @dataclasses.dataclass
  class Example:
    size: 'int'
    scale: float | None = None

  found = annotations.fields_of(Example)
  assert found == {'size': int, 'scale': float | None}


@pytest.mark.parametrize('dtype', [None, 'float32', 'bfloat16', np.float16])
def test_dtypes(dtype):
  annotations.check_dtype(dtype, 'config.x.dtype')


@pytest.mark.parametrize('dtype', ['flota32', 'int32', 3, 'complex64', ()])
def test_wrong_dtypes(dtype):
  with pytest.raises(ValueError, match=r"^config\.x\.dtype is .*'bfloat16'"):
    annotations.check_dtype(dtype, 'config.x.dtype')
