"""Pickles are read without running anything, in bounded memory."""

import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from flax_enn.checkpoints import haiku_pickle, pickle_machine
from tests.checkpoints import catalogue_files as files

TREE = {
    'params': {
        'net/~/linear': {
            'w': np.arange(12, dtype=np.float32).reshape(3, 4),
            'b': np.asfortranarray(np.ones((2, 3))),
        },
        'net': {'w': np.arange(3, dtype=np.float16)},
    },
    'state': {'net/~/ema': {'counter': np.array([3], np.int32)}},
    'labels': np.arange(300),
}


def assert_same(found, expected):
  if isinstance(expected, dict):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
      assert_same(found[name], value)
  else:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def flat_mapping(tree):
  return files.Call(files.FLAT_MAPPING, tree)


@pytest.mark.parametrize('protocol', [3, 4])
@pytest.mark.parametrize('mapping', [dict, flat_mapping])
@pytest.mark.parametrize('leaf', [files.array, lambda values: values])
def test_what_dill_and_numpy_write(protocol, mapping, leaf):
  content = files.dump(TREE, protocol, leaf, mapping)
  assert_same(haiku_pickle.loads(content), TREE)
  if protocol == 3:  # no frames: what numpy < 2 wrote
    old = content.replace(b'numpy._core.', b'numpy.core.')
    assert old != content
    assert_same(haiku_pickle.loads(old), TREE)


def test_big_endian():
  tree = {'labels': np.arange(5, dtype='>i8')}
  found = haiku_pickle.loads(files.dump(tree))['labels']
  assert found.dtype == np.int64 and found.tolist() == [0, 1, 2, 3, 4]


class Nested:
  """A class of this test."""


CREATE_TYPE = files.called('dill._dill', '_create_type')
ARRAY = np.zeros(3, np.float32)
RECONSTRUCT, ARGUMENTS, STATE = ARRAY.__reduce__()


def made(*args):
  """An array as dill would make it of something else."""
  return files.Call(files.CREATE_ARRAY, *args)


# What is nested in a file in the place of an array -> what is said of it.
BAD = {
    'os.system': (files.Call(os.system, 'touch ran'), r"'posix.system'"),
    'eval': (files.Call(eval, "open('ran', 'w')"), r"'builtins.eval'"),
    'class': (Nested(), r'test_haiku_pickle.Nested'),
    'function': (np.load, r"'numpy.load'"),
    'of dill': (
        files.Call(CREATE_TYPE, type, 'a'), r"'dill._dill._create_type'",
    ),
    'created by a call': (made(os.system, ('touch ran',), STATE), 'posix'),
    'created by dill itself': (
        made(files.CREATE_ARRAY, ARGUMENTS, STATE), 'something else than numpy',
    ),
    'created with attributes': (
        made(RECONSTRUCT, ARGUMENTS, STATE, {'a': 1}), 'something else than',
    ),
    'subclass': (np.zeros(3).view(np.matrix), r'matrix'),
    'objects': (np.array([None, 'a']), r"a dtype 'O8'"),
    'record': (np.zeros(2, [('a', 'f4')]), r"a dtype 'V4'"),
    'times': (np.zeros(2, 'M8[s]'), r"a dtype 'M8'"),
    'complex': (np.zeros(2, 'c8'), r"a dtype 'c8'"),
    'scalar': (np.float32(1), r'multiarray.scalar'),
    'number': (3, "'int' where arrays"),
    'text': ('a', "'str' where arrays"),
    'list': ([1], r'an operation'),
    'ndarray itself': (np.ndarray, "'ndarray' where arrays"),
    'array that has no content': (
        files.Call(RECONSTRUCT, *ARGUMENTS), "'_Array' where arrays",
    ),
    'claimed size': (
        made(RECONSTRUCT, ARGUMENTS, (1, (2**40,), *STATE[2:])),
        r'of 12 bytes, expected 4398046511104',
    ),
    'claimed sizes': (
        made(RECONSTRUCT, ARGUMENTS, (1, (2**40,) * 8, *STATE[2:])), 'expected',
    ),
    'negative size': (
        made(RECONSTRUCT, ARGUMENTS, (1, (-1, -3), *STATE[2:])), 'no size',
    ),
    'no size': (np.zeros((0, 3), np.float32), 'no size'),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
@pytest.mark.parametrize('protocol', [3, 4])
def test_what_no_file_has(case, protocol, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  value, message = BAD[case]
  tree = {'params': {'net': {'w': value}}}
  with files.named(files.CREATE_ARRAY, CREATE_TYPE):
    content = pickle.dumps(tree, protocol)
  with pytest.raises(ValueError, match=message):
    haiku_pickle.loads(content)
  assert not list(tmp_path.iterdir())


HEAD = pickle.PROTO + b'\x04'


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'it is no pickle'),
        (b'PK\x03\x04 a zip', r"begins with b'PK"),
        (b'<html>', r'it is no pickle'),
        (HEAD, r'cut off'),
        (HEAD + b'.', 'it ends with'),
        (HEAD + b'N.', r"'NoneType' where arrays"),
        (HEAD + b'}}.', 'it ends with'),
        (HEAD + b'}.}', '1 objects and 1 bytes left'),
        (HEAD + b'(}.', 'it ends with'),
        (HEAD + b'u.', 'a mark that is not there'),
        (HEAD + b'R.', 'not there'),
        (HEAD + b'h\x07.', 'refers to an object'),
        (b'\x80\x09}.', 'protocol 9'),
        (HEAD + b'}(K\x01K\x02u.', 'a key that is no text'),
        (HEAD + b'}\x94(\x8c\x01ah\x00u.', 'the same dict twice'),
        (HEAD + b'}(\x8c\x01\xffNu.', 'utf-8'),
        (HEAD + b'cposix\nsystem\n(\x8c\x02idtR.', "'posix.system'"),
        (b'\x80\x02c' + b'a' * 10**4, 'a name without an end'),
        (HEAD + b'P1\n.', 'an operation'),  # an object that is elsewhere
        (HEAD + b'\x8e' + struct.pack('<Q', 2**62) + b'.', 'cut off'),
        (HEAD + b'\x95' + struct.pack('<Q', 2**62) + b'.', 'cut off'),
        (HEAD + b'}r' + struct.pack('<I', 2**32 - 1) + b'.', ''),
    ],
)
def test_odd_content(content, message):
  """Also where Python's own reader would ask for gigabytes."""
  tracemalloc.start()
  try:
    if message:
      with pytest.raises(ValueError, match=message):
        haiku_pickle.loads(content)
    else:
      assert haiku_pickle.loads(content) == {}
    assert tracemalloc.get_traced_memory()[1] < 2**25
  finally:
    tracemalloc.stop()


def test_many_operations(monkeypatch):
  monkeypatch.setattr(pickle_machine, '_MOST_OPERATIONS', 1000)
  with pytest.raises(ValueError, match='more than 1000 operations'):
    haiku_pickle.loads(HEAD + b'N' * 1000 + b'.')


def test_no_file(tmp_path):
  for path in (tmp_path, tmp_path / 'no.npzs', tmp_path / 'no' / 'no.npzs'):
    with pytest.raises(ValueError, match='is not there, or no file'):
      haiku_pickle.read(path)


def test_a_small_file_does_not_say_endlessly_much():
  """Tuples of tuples: what walks them would take years."""
  laughs = HEAD + b')\x94' + b''.join(
      b'h%ch%c\x86\x94' % (n, n) for n in range(99)
  )
  with pytest.raises(ValueError, match='it ends with'):
    haiku_pickle.loads(laughs + b'.')
  with pytest.raises(ValueError, match='a key that is no text'):
    haiku_pickle.loads(laughs + b'}(h\x63Nu.')


def mutate(content, rng):
  """Flips bits, cuts off, doubles or leaves out a part."""
  changed = bytearray(content)
  kind = rng.integers(4)
  if kind == 0:
    return bytes(changed[: rng.integers(len(changed))])
  if kind == 1:
    start = rng.integers(len(changed))
    part = changed[start : start + rng.integers(1, 40)]
    at = rng.integers(len(changed))
    changed[at:at] = part
    return bytes(changed)
  if kind == 2:
    start = rng.integers(len(changed))
    del changed[start : start + rng.integers(1, 40)]
    return bytes(changed)
  for at in rng.integers(len(changed), size=rng.integers(1, 4)):
    changed[at] ^= 1 << rng.integers(8)
  return bytes(changed)


def check_fuzzed(seed, number):
  """Every change is refused, or arrays come out that the file has bytes for."""
  tree = {k: v for k, v in TREE.items() if k != 'labels'}
  contents = [
      files.dump(tree, protocol, leaf, mapping)
      for protocol in (3, 4)
      for leaf in (files.array, lambda values: values)
      for mapping in (dict, flat_mapping)
  ]
  rng, refused = np.random.default_rng(seed), 0
  for i in range(number):
    content = mutate(contents[i % len(contents)], rng)
    try:
      found = haiku_pickle.loads(content)
    except ValueError:
      refused += 1
      continue
    leaves = [found]
    while leaves:
      leaf = leaves.pop()
      if isinstance(leaf, dict):
        leaves += leaf.values()
      else:
        assert leaf.nbytes <= len(content) and leaf.dtype.kind in 'fiu'
  assert 0.3 * number < refused < number


def test_fuzzed():
  check_fuzzed(0, 3000)


def test_memory_of_the_fuzzed():
  tracemalloc.start()
  try:
    check_fuzzed(100, 300)
    assert tracemalloc.get_traced_memory()[1] < 2**21
  finally:
    tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize('seed', range(1, 9))
def test_fuzzed_more(seed):
  check_fuzzed(seed, int(os.environ.get('FLAX_ENN_FUZZ', '1500')) * 5)
