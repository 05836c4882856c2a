"""Images a second of the JPEG training pipeline, and where the time goes.

  python -m benchmarks.jpeg_pipeline
  python -m benchmarks.jpeg_pipeline --data=/path/to/imagenet_sample_1000

Beside the pipeline of `flax_enn.data` (in threads, and in processes), bare
loops over the same images and windows like its own, one image after the other
in as many threads: Pillow, OpenCV where it is installed, and TensorFlow. All
take turns in every round, as other work on a machine comes and goes.
"""

import collections
from concurrent import futures
import contextlib
import dataclasses
import functools
import io
import itertools
import os
from pathlib import Path
import statistics
import time
from typing import Any

os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')

from absl import app, flags, logging
import numpy as np
from PIL import Image

from benchmarks import timing
from flax_enn.data import Loader, imagenet2012, jpeg
from flax_enn.data.batching import Batcher

_DATA = flags.DEFINE_string(
    'data',
    None,
    'Folder with images_256.bin (JPEGs one after the other) and index.npz'
    ' (their offsets); without it, photos of 375x500 pixels are made up.',
)
_IMAGES = flags.DEFINE_integer('images', 1000, 'Images a round.')
_BATCH = flags.DEFINE_integer('batch_size', 50, 'Images in a batch.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'How often all take their turn.')
_CORES = flags.DEFINE_integer(
    'cores', os.cpu_count() or 1, 'Threads, or worker processes.'
)


@dataclasses.dataclass(frozen=True)
class Photos(imagenet2012.Imagenet2012):
  """ImageNet in name, with the JPEGs of a file.

  Attributes:
    path: the folder `--data`, or None.
  """

  path: str | None = None

  def load(self, split: str) -> Any:
    """The same images for every split."""
    return [{'x': one, 'y': np.int32(0)} for one in photos(self.path)]


def photos(path: str | None) -> list[bytes]:
  """1,000 encoded JPEGs."""
  if path is not None:
    offsets = np.load(Path(path) / 'index.npz')['offsets']
    content = (Path(path) / 'images_256.bin').read_bytes()
    return [content[a:b] for a, b in itertools.pairwise(offsets)][:1000]
  made = []
  for seed in range(20):
    rng = np.random.RandomState(seed)
    y, x = np.mgrid[0:1:375j, 0:1:500j]
    waves = [
        np.sin(rng.uniform(3, 60) * x + rng.uniform(3, 60) * y)
        for _ in range(3)
    ]
    noise = rng.normal(scale=12, size=(375, 500, 3))
    pixels = np.clip(127 + 90 * np.stack(waves, -1) + noise, 0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, 'JPEG', quality=90)
    made.append(file.getvalue())
  return made * 50


def window(encoded: bytes, number: int) -> jpeg.Window:
  """The same random window of an image for everyone."""
  height, width = jpeg.shape(encoded)
  rng = np.random.default_rng(number)
  found = jpeg.random_window(height, width, (0.08, 1.0), (3 / 4, 4 / 3), rng)
  return found or jpeg.central_window(height, width, 224, 32)


def pillow(encoded: bytes, where: jpeg.Window) -> Any:
  """Decodes all, then cuts and resizes."""
  top, left, height, width = where
  with Image.open(io.BytesIO(encoded)) as image:
    box = (left, top, left + width, top + height)
    resample = Image.Resampling.BICUBIC
    return np.asarray(image.convert('RGB').resize((224, 224), resample, box))


def opencv(encoded: bytes, where: jpeg.Window) -> Any:
  """The same."""
  import cv2

  top, left, height, width = where
  pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
  pixels = pixels[top : top + height, left : left + width]
  return cv2.resize(pixels, (224, 224), interpolation=cv2.INTER_CUBIC)


def tensorflow(encoded: bytes, where: jpeg.Window) -> Any:
  """Decodes the window alone, and resizes."""
  return jpeg.decode(encoded, where, 224)


def bare(loop, encoded, windows) -> float:
  """Seconds for all images in as many threads as there are cores."""
  start = time.perf_counter()
  with futures.ThreadPoolExecutor(_CORES.value) as pool:
    collections.deque(pool.map(loop, encoded, windows), maxlen=0)
  return time.perf_counter() - start


class Pipeline:
  """The training pipeline, after its workers have started."""

  def __init__(self, workers: int):
    """Starts them: processes, or threads for 0."""
    dataset = Photos(path=_DATA.value)
    loader = Loader(workers=workers, read_ahead=2 * _CORES.value)
    self._batches = loader.train_batches(
        dataset, dataset.spec, batch_size=_BATCH.value, seed=0
    )
    next(self._batches)

  def __call__(self, images: int, clock=time.perf_counter) -> float:
    """Seconds for as many images."""
    # What was read before the clock started must not count.
    for _ in range(3 * _CORES.value):
      next(self._batches)
    start = clock()
    for _ in range(images // _BATCH.value):
      next(self._batches)
    seconds = clock() - start
    time.sleep(1)  # What it reads ahead must not slow down the next.
    return seconds


def profile(encoded: list[bytes], windows: list[jpeg.Window]) -> None:
  """Prints what each part of an image's way costs of a core.

  In time of the processor, which other work on the machine does not stretch.
  """
  tf = jpeg.tensorflow()
  dataset = Photos(path=_DATA.value)
  seconds = collections.defaultdict(float)

  @contextlib.contextmanager
  def clock(name):
    start = time.process_time()
    yield
    seconds[name] += time.process_time() - start

  collate = Batcher(repr(dataset), 'train', dataset.spec).stack
  elements = []
  for i, (one, where) in enumerate(zip(encoded, windows)):
    rng = np.random.default_rng(i)
    with clock('read the header'):
      height, width = jpeg.shape(one)
    with clock('draw the window'):
      jpeg.random_window(height, width, dataset.area, dataset.aspect, rng)
    with clock('decode it'):
      pixels = tf.raw_ops.DecodeAndCropJpeg(
          contents=one,
          crop_window=where,
          channels=3,
          dct_method='INTEGER_ACCURATE',
      )
    with clock('resize it'):
      x = tf.raw_ops.ResizeBicubic(
          images=tf.raw_ops.ExpandDims(input=pixels, axis=0),
          size=(224, 224),
          half_pixel_centers=True,
      ).numpy()[0]
    with clock('normalise'):
      x = imagenet2012.normalised(x)
    with clock('flip'):
      x = imagenet2012.mirrored(x) if i % 2 else x
    elements.append({'x': x, 'y': np.int32(0), 'id': np.int32(i)})
    if len(elements) == _BATCH.value:
      with clock('stack and check'):
        collate(elements)
      elements.clear()
  total = Pipeline(0)(len(encoded), time.process_time)
  seconds['the rest'] = total - sum(seconds.values())
  timing.print_row('one core, one image', ms=1e3 * total / len(encoded))
  for name, value in seconds.items():
    timing.print_row(
        f'  {name}', ms=1e3 * value / len(encoded), share=value / total
    )


def main(argv):
  """Runs all rounds and prints the rows."""
  if len(argv) > 1:
    raise app.UsageError(f'unknown arguments {argv[1:]}')
  timing.print_machine()
  encoded = photos(_DATA.value)[: _IMAGES.value]
  if len(encoded) < _IMAGES.value or len(encoded) % _BATCH.value:
    raise app.UsageError(
        f'--images is {_IMAGES.value}; it must be a multiple of --batch_size'
        f' ({_BATCH.value}), and at most {len(photos(_DATA.value))}'
    )
  windows = [window(one, i) for i, one in enumerate(encoded)]
  ways = {
      'bare loop, Pillow': lambda: bare(pillow, encoded, windows),
      'bare loop, OpenCV': lambda: bare(opencv, encoded, windows),
      'bare loop, TensorFlow': lambda: bare(tensorflow, encoded, windows),
      'pipeline, threads': functools.partial(Pipeline(0), len(encoded)),
      'pipeline, processes': functools.partial(
          Pipeline(_CORES.value), len(encoded)
      ),
  }
  try:
    import cv2

    cv2.setNumThreads(1)
  except ModuleNotFoundError:
    del ways['bare loop, OpenCV']
    logging.warning('OpenCV is not installed: opencv-python-headless')
  rates = collections.defaultdict(list)
  for number in range(_ROUNDS.value):
    for name, run in ways.items():
      rates[name].append(_IMAGES.value / run())
    logging.info('Round %d of %d done', number + 1, _ROUNDS.value)
  for name, values in rates.items():
    timing.print_row(
        name,
        images_per_s=statistics.median(values),
        lowest=min(values),
        highest=max(values),
        cores=_CORES.value,
    )
  profile(encoded, windows)


if __name__ == '__main__':
  app.run(main)
