"""From an input as it is stored to what a network takes."""

import io
import struct
import zlib

import numpy as np
from PIL import Image
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


def png(bits, color, rows, side=4):
  """A PNG as Pillow does not write it: of any depth, and any size it says."""

  def chunk(name, content):
    sum_ = zlib.crc32(name + content)
    return struct.pack('>I', len(content)) + name + content + sum_.to_bytes(4)

  header = struct.pack('>IIBBBBB', side, side, bits, color, 0, 0, 0)
  lines = b''.join(b'\0' + row.tobytes() for row in rows)
  return (
      b'\x89PNG\r\n\x1a\n'
      + chunk(b'IHDR', header)
      + chunk(b'IDAT', zlib.compress(lines))
      + chunk(b'IEND', b'')
  )


def in_mode(mode, format='PNG', pixels=IMAGE, **options):
  file = io.BytesIO()
  Image.fromarray(pixels).convert(mode).save(file, format, **options)
  return file.getvalue()


GREY = IMAGE[..., :1].repeat(3, axis=-1)


@pytest.mark.parametrize(
    'encoded, expected',
    [
        (in_mode('L', pixels=GREY), GREY),
        (in_mode('LA', pixels=GREY), GREY),
        (in_mode('L', pixels=GREY), GREY[..., :1]),
        (in_mode('LA', pixels=GREY), GREY[..., :1]),
        (in_mode('RGB', pixels=GREY), GREY[..., :1]),
        (in_mode('RGBA', pixels=GREY), GREY[..., :1]),
        (in_mode('RGBA'), IMAGE),
        (in_mode('1', pixels=GREY // 128 * 255), GREY // 128 * 255),
        (in_mode('P', pixels=GREY[..., 0]), GREY),
    ],
    ids=['L-3', 'LA-3', 'L-1', 'LA-1', 'RGB-1', 'RGBA-1', 'RGBA-3', '1', 'P'],
)
def test_modes_that_lose_nothing(encoded, expected):
  found = Pixels(expected.shape).pixels(encoded)
  np.testing.assert_array_equal(found, expected)


DEEP = np.arange(256).reshape(4, 64).astype('>u2') * 200
CLEAR = np.dstack([IMAGE, np.full(IMAGE.shape[:2], 100, np.uint8)])
BOMBS = [png(8, 0, np.zeros((4, 4), np.uint8), n) for n in (12_000, 20_000)]


@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
@pytest.mark.parametrize(
    'encoded, channels, message',
    [
        (png(16, 0, DEEP[:, :4]), 1, r'mode I;16 \(I;16B\); expected 8 bits'),
        (png(16, 0, DEEP[:, :4]), 3, r'mode I;16 \(I;16B\); expected 8 bits'),
        (png(16, 2, DEEP[:, :12]), 3, r'\(RGB;16B\); expected 8 bits'),
        (png(16, 6, DEEP[:, :16]), 4, r'\(RGBA;16B\); expected 8 bits'),
        (in_mode('CMYK', 'JPEG'), 3, 'mode CMYK'),
        (in_mode('F', 'TIFF', GREY), 1, 'mode F'),
        (in_mode('RGB'), 1, 'mode RGB with colours; expected grey'),
        (in_mode('RGBA', pixels=CLEAR), 3, 'RGBA with transparent pixels'),
        (in_mode('RGB')[:-30], 3, 'not an image that Pillow can decode'),
        (in_mode('RGB', 'JPEG')[:-30], 3, 'not an image that Pillow can'),
        (BOMBS[0], 1, 'image of 12000 x 12000 pixels'),
        (BOMBS[1], 1, 'image that is too large'),  # Pillow itself
        (b'', 1, 'not an image that Pillow can decode'),
    ],
    ids=[
        *('grey 16', 'grey 16 as RGB', 'RGB 16', 'RGBA 16', 'CMYK', 'float'),
        *('colours', 'transparent', 'cut off', 'cut off jpeg'),
        *('bomb', 'larger bomb', 'empty'),
    ],
)
def test_images_that_would_lose_something_are_refused(
    encoded, channels, message
):
  with pytest.raises(ValueError, match=message):
    Pixels((6, 5, channels), resize=True)(encoded)
