"""Text as numbers of pieces of words, from a vocabulary that is learned here.

Pieces are merged from letters by how often they stand side by side (Sennrich et
al., "Neural Machine Translation of Rare Words with Subword Units",
arXiv:1508.07909); a word is cut into the longest of them, from its beginning
(the word pieces of BERT, arXiv:1810.04805). Inside a word a piece begins with
`##`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import functools
import heapq
import itertools
import re
from typing import Any

import numpy as np

# Numbers 0 to 3: padding, a word that cannot be cut, the first and last piece.
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]')
_INSIDE = '##'


@dataclasses.dataclass(frozen=True)
class WordPieces:
  """A text as what BERT takes.

  Attributes:
    vocabulary: the pieces, each with its place as its number.
    length: T, of every text: longer ones are cut, shorter ones padded.
  """

  vocabulary: tuple[str, ...]
  length: int

  def __call__(self, x: Any) -> dict[str, np.ndarray]:
    """`token_ids`, `segment_ids` and `input_mask`, int32 `[T]`.

    Raises:
      ValueError: x is not a text.
    """
    if isinstance(x, bytes):
      x = x.decode()
    if not isinstance(x, str):
      raise ValueError(f'a text is {type(x).__name__}; expected str')
    pieces = [piece for word in split(x) for piece in self.cut(word)]
    first, last = SPECIAL[2:]
    ids = [
        self._numbers[piece]
        for piece in (first, *pieces[: self.length - 2], last)
    ]
    padding = (0, self.length - len(ids))
    return {
        'token_ids': np.pad(np.array(ids, np.int32), padding),
        'segment_ids': np.zeros(self.length, np.int32),
        'input_mask': np.pad(np.ones(len(ids), np.int32), padding),
    }

  def of_many(self, x: Any) -> Callable[[Any], dict[str, np.ndarray]]:
    """The same of many texts, `[B, T]`."""
    del x
    return self._many

  def _many(self, x: Iterable[Any]) -> dict[str, np.ndarray]:
    each = [self(text) for text in x]
    return {name: np.stack([e[name] for e in each]) for name in each[0]}

  def cut(self, word: str) -> list[str]:
    """The pieces of a word; [UNK] where there are none."""
    pieces, start = [], 0
    while start < len(word):
      prefix = _INSIDE if start else ''
      ends = range(min(len(word), start + self._longest), start, -1)
      found = (f'{prefix}{word[start:end]}' for end in ends)
      piece = next((p for p in found if p in self._numbers), None)
      if piece is None:
        return [SPECIAL[1]]
      pieces.append(piece)
      start += len(piece) - len(prefix)
    return pieces

  @functools.cached_property
  def _numbers(self) -> dict[str, int]:
    return {piece: number for number, piece in enumerate(self.vocabulary)}

  @functools.cached_property
  def _longest(self) -> int:
    return max(map(len, self.vocabulary))


def split(text: str) -> list[str]:
  """Words and marks of a text, in small letters."""
  return re.findall(r'\w+|[^\w\s]', text.lower())


def learn_vocabulary(texts: Iterable[str], size: int) -> tuple[str, ...]:
  """Learns a vocabulary; the same for the same texts, in whatever order.

  Args:
    texts: to learn from.
    size: pieces at most, with those of `SPECIAL`. Fewer are found where no two
      of them stand side by side twice.
  """
  counts = Counter(word for text in texts for word in split(text))
  words = [
      ([word[0], *(f'{_INSIDE}{c}' for c in word[1:])], count)
      for word, count in sorted(counts.items())
  ]
  letters = Counter()
  pairs, places = Counter(), defaultdict(set)
  for place, (pieces, count) in enumerate(words):
    for piece in pieces:
      letters[piece] += count
    for pair in _pairs(pieces):
      pairs[pair] += count
      places[pair].add(place)
  frequent = sorted(letters, key=lambda piece: (-letters[piece], piece))
  vocabulary = dict.fromkeys([*SPECIAL, *frequent][:size])
  heap = [(-count, pair) for pair, count in pairs.items()]
  heapq.heapify(heap)
  while heap and len(vocabulary) < size:
    count, pair = heapq.heappop(heap)
    if -count != pairs[pair]:
      continue  # it has changed since, and is in the heap again
    if count > -2:
      break
    merged = pair[0] + pair[1].removeprefix(_INSIDE)
    vocabulary[merged] = None
    changed = set()
    for place in places.pop(pair):
      pieces, count = words[place]
      for old in _pairs(pieces):
        pairs[old] -= count
        changed.add(old)
      words[place] = (_merge(pieces, pair, merged), count)
      for new in _pairs(words[place][0]):
        pairs[new] += count
        places[new].add(place)
        changed.add(new)
    for other in changed:
      heapq.heappush(heap, (-pairs[other], other))
  return tuple(vocabulary)


def _pairs(pieces: list[str]) -> Iterator[tuple[str, str]]:
  return itertools.pairwise(pieces)


def _merge(pieces: list[str], pair: tuple[str, str], merged: str) -> list[str]:
  """The pieces, with every such pair as one."""
  out = []
  for piece in pieces:
    if out and (out[-1], piece) == pair:
      out[-1] = merged
    else:
      out.append(piece)
  return out
