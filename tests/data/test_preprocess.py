"""From an input as it is stored to what a network takes."""

import numpy as np
import pytest

from flax_enn.data import Identity, Pixels, Standardize
from tests.data import fake_tfds

IMAGE = np.random.RandomState(0).randint(256, size=(6, 5, 3)).astype(np.uint8)
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)


def test_identity():
  x = {'tokens': np.arange(3)}
  assert Identity()(x) is x


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_standardize(dtype):
  x = Standardize(MEAN, STD)(IMAGE.astype(dtype))
  assert x.dtype == np.float32
  np.testing.assert_allclose(x, (IMAGE - np.array(MEAN)) / STD, rtol=1e-6)


def test_pixels_are_scaled():
  x = Pixels((6, 5, 3))(IMAGE)
  assert x.dtype == np.float32
  np.testing.assert_allclose(x, IMAGE / 255, rtol=1e-6)
  x = Pixels((6, 5, 3), mean=MEAN, std=STD)(IMAGE)
  assert x.dtype == np.float32
  expected = (IMAGE / 255 - MEAN) / STD
  np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('format', ['PNG', 'BMP'])
def test_encoded_images_are_decoded(format):
  encoded = fake_tfds.encoded(IMAGE, format).getvalue()
  np.testing.assert_array_equal(Pixels((6, 5, 3)).pixels(encoded), IMAGE)
  grey = fake_tfds.encoded(IMAGE[..., 0], format).getvalue()
  found = Pixels((6, 5, 1)).pixels(grey)
  np.testing.assert_array_equal(found, IMAGE[..., :1])


@pytest.mark.parametrize('channels', [1, 3])
def test_images_of_another_size_are_cut_at_the_centre(channels):
  wide = np.zeros((4, 40, channels), np.uint8)
  wide[:, 18:22] = 200
  found = Pixels((8, 8, channels), resize=True).pixels(wide)
  assert found.shape == (8, 8, channels) and found.min() > 100
  assert (found[:, 1:-1] == 200).all()  # the filter blurs the edges


@pytest.mark.parametrize(
    'shape, resize, x, message',
    [
        ((6, 5, 3), False, IMAGE / 255, r'float64\[6, 5, 3\].*that size'),
        ((6, 5, 3), True, IMAGE / 255, r'float64\[6, 5, 3\].*any size'),
        ((6, 4, 3), False, IMAGE, r'uint8\[6, 5, 3\]; .*uint8\[6, 4, 3\]'),
        ((6, 5, 1), True, IMAGE, r'uint8\[6, 5, 3\]; .*uint8\[6, 5, 1\]'),
        ((6, 5, 3), True, b'no image', 'not an image that Pillow can decode'),
    ],
)
def test_what_is_not_such_an_image_is_refused(shape, resize, x, message):
  with pytest.raises(ValueError, match=message):
    Pixels(shape, resize=resize)(x)
