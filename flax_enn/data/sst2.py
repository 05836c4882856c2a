"""SST-2: is what a film review says good or bad?"""

import dataclasses
from typing import ClassVar

from flax_enn.data.tsv import Sentences


@dataclasses.dataclass(frozen=True)
class Sst2(Sentences):
  """67,349 training phrases and 872 sentences, of two classes.

  Socher et al., "Recursive Deep Models for Semantic Compositionality Over a
  Sentiment Treebank" (EMNLP 2013). Files have the columns sentence, label, and
  a header that names them, as in GLUE. The attributes are those of `Sentences`.
  """

  length: int = 64

  classes: ClassVar[tuple[str, ...]] = ('negative', 'positive')
  columns: ClassVar[tuple[str, ...]] = ('sentence', 'label')
  header: ClassVar[bool] = True
