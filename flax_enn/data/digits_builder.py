"""The TFDS builder of `digits`: scikit-learn's scans as a prepared data set."""

from collections.abc import Iterator
import io
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

DESCRIPTION = """
1,797 scans of handwritten digits, 8x8 pixels, 10 classes: the test part of the
"Optical Recognition of Handwritten Digits" of E. Alpaydin and C. Kaynak, as it
comes with scikit-learn. 1,437 are for training and 360 for testing.
"""


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
  """Made from `sklearn.datasets.load_digits`, without network or TensorFlow."""

  VERSION = tfds.core.Version('1.0.0')

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
        builder=self,
        description=DESCRIPTION,
        homepage='https://doi.org/10.24432/C50P49',
        features=tfds.features.FeaturesDict({
            'image': tfds.features.Image(shape=(8, 8, 1)),
            'label': tfds.features.ClassLabel(num_classes=10),
        }),
        supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # Nothing to download.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits: Any = load_digits()
    # At random, for neighbours in the file are digits of one hand.
    train, test = train_test_split(
        np.arange(len(digits.target)),
        test_size=360,
        random_state=0,
        stratify=digits.target,
    )
    return {
        name: self._generate_examples(rows, digits.images, digits.target)
        for name, rows in (('train', train), ('test', test))
    }

  def _generate_examples(
      self, rows: np.ndarray, images: np.ndarray, labels: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for i in rows:
      # 0 .. 16 in steps of a byte; TFDS would encode an array with TensorFlow.
      pixels = np.minimum(images[i] * 16, 255).astype(np.uint8)
      png = io.BytesIO()
      Image.fromarray(pixels).save(png, format='PNG')
      png.seek(0)
      yield int(i), {'image': png, 'label': int(labels[i])}
