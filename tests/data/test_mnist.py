"""MNIST, prepared by TFDS with random pixels."""

import numpy as np

from flax_enn.data.mnist import Mnist
from flax_enn.likelihoods import Categorical
from tests.data import fake_tfds
from tests.data.reading import everything, train_batches


def test_images_are_standardized_each_by_itself(tmp_path):
  rng = np.random.RandomState(0)
  pixels = rng.randint(256, size=(8, 28, 28), dtype=np.uint8)
  pixels[0] = 7
  examples = [
      {'image': fake_tfds.encoded(image, 'PNG'), 'label': i}
      for i, image in enumerate(pixels)
  ]
  splits = {'train': examples[:6], 'test': examples[6:]}
  fake_tfds.prepare('mnist', str(tmp_path), splits)
  dataset = Mnist(data_dir=str(tmp_path))
  assert dataset.likelihood == Categorical(10)
  x, y, _ = everything(dataset, 'train')
  assert x.shape == (6, 28, 28, 1) and sorted(y) == list(range(6))
  for image, label in zip(x, y):
    scaled = np.float64(pixels[label]) / 255
    std = max(scaled.std(), 1 / 28)
    expected = (scaled - scaled.mean()) / std
    np.testing.assert_allclose(
        image[..., 0], expected, rtol=1e-4, atol=1e-5
    )
  batch = next(train_batches(dataset, batch_size=6))
  np.testing.assert_allclose(batch.x.mean(axis=(1, 2, 3)), 0, atol=1e-5)
  plain, _, _ = everything(Mnist(str(tmp_path), per_image=False), 'test')
  assert plain.min() >= 0 and plain.max() <= 1
