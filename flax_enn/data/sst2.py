"""SST-2: is what a film review says good or bad?"""

import dataclasses
from typing import ClassVar

from flax_enn.data.tsv import Sentences


@dataclasses.dataclass(frozen=True)
class Sst2(Sentences):
  """67,349 training phrases and 872 sentences, of two classes.

  Socher et al., "Recursive Deep Models for Semantic Compositionality Over a
  Sentiment Treebank" (EMNLP 2013). Files have a header and the columns
  sentence, label, as in GLUE. The attributes are those of `Sentences`.
  """

  length: int = 64

  classes: ClassVar[tuple[str, ...]] = ('negative', 'positive')

  def rows(self, lines: list[str]) -> list[tuple[str, str]]:
    columns = [line.split('\t') for line in lines[1:]]
    return [(row[0], row[1]) for row in columns]
