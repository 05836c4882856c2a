"""CoLA: is an English sentence acceptable?"""

import dataclasses
from typing import ClassVar

from flax_enn.data.tsv import Sentences


@dataclasses.dataclass(frozen=True)
class Cola(Sentences):
  """8,551 training and 1,043 development sentences, of two classes.

  Warstadt et al., "Neural Network Acceptability Judgments", arXiv:1805.12471.
  Files have the columns source, label, mark of the author, sentence, and no
  header, as they are published and in GLUE. The attributes are those of
  `Sentences`.
  """

  classes: ClassVar[tuple[str, ...]] = ('unacceptable', 'acceptable')
  columns: ClassVar[tuple[str, ...]] = ('source', 'label', 'mark', 'sentence')
