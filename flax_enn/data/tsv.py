"""Labelled sentences from files of tab-separated values."""

import dataclasses
import functools
import gzip
from typing import Any, ClassVar
import zlib

from etils import epath
import jax
import numpy as np

from flax_enn.data.base import ArraySource, Dataset, check_numbers
from flax_enn.data.word_pieces import SPECIAL, WordPieces, learn_vocabulary
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class Sentences(Dataset):
  """Sentences with a label each, as pieces of words.

  The vocabulary is learned from the training split, and is part of what a run
  keeps of its data.

  Attributes:
    data_dir: the folder of the files.
    train: name of the file of the training split; what ends in `.gz` is
      unpacked.
    test: likewise of the test split.
    length: T, pieces of a sentence as the network takes it.
    vocab_size: pieces of words in the vocabulary, at most.
  """

  data_dir: str
  train: str = 'train.tsv'
  test: str = 'dev.tsv'
  length: int = 32
  vocab_size: int = 4000

  learns: ClassVar[bool] = True
  # Names of the classes, in their order.
  classes: ClassVar[tuple[str, ...]] = ()
  # Of a line, among them `label` and `sentence`.
  columns: ClassVar[tuple[str, ...]] = ()
  # Whether the first line names the columns.
  header: ClassVar[bool] = False

  def __post_init__(self):
    check_numbers(self, ('length', 'vocab_size'), ())
    if self.length < 3 or self.vocab_size < len(SPECIAL):
      raise ValueError(
          f'length is {self.length} and vocab_size {self.vocab_size}; a text'
          f' has 3 pieces at least, and {len(SPECIAL)} of the vocabulary are'
          f' {", ".join(SPECIAL)}'
      )

  @property
  def class_names(self) -> tuple[str, ...]:
    return self.classes

  @property
  def likelihood(self) -> Categorical:
    return Categorical(len(self.classes))

  @property
  def input_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    each = jax.ShapeDtypeStruct((self.length,), np.int32)
    return dict.fromkeys(('token_ids', 'segment_ids', 'input_mask'), each)

  @functools.cached_property
  def preprocess(self) -> WordPieces:
    texts = self.load('train').x.tolist()
    vocabulary = learn_vocabulary(texts, self.vocab_size)
    return WordPieces(vocabulary, self.length)

  def load(self, split: str) -> ArraySource:
    return self._splits[split]

  def __getstate__(self) -> dict[str, Any]:
    # With what was learned, or each worker would learn it again.
    return {**super().__getstate__(), 'preprocess': self.preprocess}

  @functools.cached_property
  def _splits(self) -> dict[str, ArraySource]:
    return {
        'train': self._read('train', self.train),
        'test': self._read('test', self.test),
    }

  def _read(self, field: str, name: str) -> ArraySource:
    path = epath.Path(self.data_dir).expanduser() / name
    where = f'data_dir is {self.data_dir!r} and {field} {name!r}'
    if not path.is_file():
      raise ValueError(f'{where}: no such file; expected a .tsv or .tsv.gz')
    try:
      content = path.read_bytes()
      if name.endswith('.gz'):
        content = gzip.decompress(content)
      content = content.decode('utf-8-sig')
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as e:
      raise ValueError(
          f'{where}, which is not such a file ({type(e).__name__}: {e})'
      ) from e
    try:
      rows = self._rows(content)
    except ValueError as e:
      raise ValueError(f'{where}, {e}') from e
    texts, labels = zip(*rows)
    return ArraySource(np.array(texts), np.array(labels).astype(np.int32))

  def _rows(self, content: str) -> list[tuple[str, str]]:
    """Sentence and label of each line of a file.

    Raises:
      ValueError: a line is not of the columns, or there is none.
    """
    # (Not splitlines, for which there are marks inside a text.)
    lines = enumerate(content.replace('\r', '').split('\n'), start=1)
    rows = [(i, line.split('\t')) for i, line in lines if line.strip()]
    if self.header:
      first = tuple(rows.pop(0)[1]) if rows else ()
      if first != self.columns:
        raise ValueError(
            f'whose first line is {first}; expected a header, {self.columns}'
        )
    if not rows:
      raise ValueError('which has no examples')
    labels, found = [str(label) for label in range(len(self.classes))], []
    for i, row in rows:
      if len(row) != len(self.columns):
        raise ValueError(
            f'which has {len(row)} columns in line {i}; expected'
            f' {len(self.columns)}: {", ".join(self.columns)}'
        )
      named = dict(zip(self.columns, row))
      if named['label'] not in labels:
        raise ValueError(
            f'which has the label {named["label"]!r} in line {i}; labels are'
            f' {", ".join(labels)}'
        )
      if not named['sentence'].strip():
        raise ValueError(f'which has an empty sentence in line {i}')
      found.append((named['sentence'], named['label']))
    return found
