"""Features of a quantised MobileNetV2 for flax_enn, from two `.npz` files.

  python docs/examples/imagenette_features.py --data=mobilenet_v2 \
    --out=features/imagenette

--data has `features_imagenette.npz` (`feat_q`, `scale`, `zero`: the penultimate
features of Imagenette's images; `label`, `names`) and the network that they are
of, `mobilenet_v2_1.0_224_quant.npz`, whose last layer makes the logits: of its
1,001 those of the ten classes. Images that are called `ILSVRC2012_val_…` are
the test split; the network was trained on all others. They are sorted by class,
and the joint log-loss is of consecutive pairs: the test split is shuffled, once
for all.
"""

import argparse
import hashlib
import pathlib

import numpy as np

from flax_enn.feature_cache import store
from flax_enn.likelihoods import Categorical

FEATURES, NETWORK = 'features_imagenette.npz', 'mobilenet_v2_1.0_224_quant.npz'
# Output of the network (0 is the background) -> name of the class.
CLASSES = {
    1: 'tench', 218: 'English springer', 483: 'cassette player',
    492: 'chain saw', 498: 'church', 567: 'French horn', 570: 'garbage truck',
    572: 'gas pump', 575: 'golf ball', 702: 'parachute',
}  # fmt: skip


def main() -> None:
  """Dequantises, computes logits, and writes."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--data', type=pathlib.Path, required=True)
  parser.add_argument('--out', required=True)
  flags = parser.parse_args()
  with np.load(flags.data / FEATURES) as file:
    found = dict(file)
  with np.load(flags.data / NETWORK) as file:
    last = max(int(k[1:]) for k in file if k[0] == 'w' and k[1:].isdigit())
    kernel, scale, zero, bias = (
        file[f'{name}{last}'] for name in ('w', 'ws', 'wz', 'b')
    )
  pooled = real(found['feat_q'], found['scale'], found['zero'])
  outputs = [*CLASSES]
  kernel = real(kernel[0, 0], scale, zero)[:, outputs]
  x = {'logits': pooled @ kernel + bias[outputs], 'pooled': pooled}
  y = found['label'].astype(np.int32)
  is_test = np.char.startswith(found['names'], 'ILSVRC2012_val_')
  train, test = np.flatnonzero(~is_test), np.flatnonzero(is_test)
  test = np.random.RandomState(0).permutation(test)
  manifest = store(
      flags.out,
      {
          split: ({k: v[rows] for k, v in x.items()}, y[rows])
          for split, rows in (('train', train), ('test', test))
      },
      origin={
          'base': {
              name: hashlib.sha256((flags.data / name).read_bytes()).hexdigest()
              for name in (FEATURES, NETWORK)
          },
          'preprocess': 'dequantised',
          'dataset': {'name': 'imagenette'},
      },
      likelihood=Categorical(len(CLASSES)),
      class_names=list(CLASSES.values()),
  )
  print({k: v['examples'] for k, v in manifest['splits'].items()})


def real(q: np.ndarray, scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
  """Quantised numbers as float32."""
  return (q.astype(np.float32) - np.float32(zero)) * np.float32(scale)


if __name__ == '__main__':
  main()
