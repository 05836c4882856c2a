"""Files that are no .npz, or one of an odd kind: one sentence, at once."""

import io
import os
import struct
import time
import zipfile

import numpy as np
import pytest

from flax_enn.data.arrays import KEYS, Arrays

GOOD = {
    key: np.zeros((4, 2), np.float32) if key[0] == 'x' else np.arange(4) % 2
    for key in KEYS
}


def npy(array):
  file = io.BytesIO()
  np.save(file, array, allow_pickle=True)
  return file.getvalue()


def header(text, version=(1, 0)):
  """The start of a .npy that says what `text` says."""
  size = struct.pack('<H' if version == (1, 0) else '<I', len(text))
  return b'\x93NUMPY' + bytes(version) + size + text.encode()


def archive(path, members, **options):
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, **options) as file:
    for name, content in {
        **{f'{key}.npy': npy(value) for key, value in GOOD.items()},
        **members,
    }.items():
      file.writestr(name, content)


def encrypted(path):
  """As if x_train had a password: the bit says so, in both headers."""
  archive(path, {})
  content = bytearray(path.read_bytes())
  for magic, offset in ((b'PK\x03\x04', 6), (b'PK\x01\x02', 8)):
    content[content.index(magic) + offset] |= 1
  path.write_bytes(content)


SHAPE = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}, }}\n"
FILES = {
    'empty': lambda path: path.touch(),
    'npy': lambda path: path.write_bytes(npy(np.zeros(3))),
    'text': lambda path: path.write_text('x,y\n1,2\n'),
    'half': lambda path: (
        archive(path, {}),
        path.write_bytes(path.read_bytes()[:200]),
    ),
    'encrypted': encrypted,
    'text member': lambda path: archive(path, {'x_train': b'text'}),
    'objects': lambda path: archive(
        path, {'x_train.npy': npy(np.array([{}, 1], dtype=object))}
    ),
    'nested header': lambda path: archive(
        path, {'x_train.npy': header('(' * 9000)}
    ),
    'huge header': lambda path: archive(
        path, {'x_train.npy': header(' ' * 10**7, (2, 0))}
    ),
    'huge shape': lambda path: archive(
        path, {'x_train.npy': header(SHAPE.format((10**13,)))}
    ),
    'negative shape': lambda path: archive(
        path, {'x_train.npy': header(SHAPE.format((-1, 2)))}
    ),
    'bomb': lambda path: archive(
        path,
        {'x_train.npy': header(SHAPE.format((2**27,))) + bytes(2**29)},
        compresslevel=1,
    ),
    'folder': lambda path: path.mkdir(),
    'fifo': os.mkfifo,
}


@pytest.mark.parametrize('kind', FILES)
def test_what_is_no_npz_is_one_sentence_at_once(tmp_path, kind):
  path = tmp_path / 'data.npz'
  FILES[kind](path)
  start = time.monotonic()
  with pytest.raises(ValueError) as caught:
    _ = Arrays(path=str(path)).spec
  assert time.monotonic() - start < 1
  said = str(caught.value)
  assert said.startswith(f'path is {str(path)!r}: ') and '\n' not in said


def test_what_is_one_is_read(tmp_path):
  for save in (np.savez, np.savez_compressed):
    save(tmp_path / 'data.npz', **GOOD)
    assert Arrays(path=str(tmp_path / 'data.npz')).spec.likelihood.outputs == 2
