"""enn's LeNet-5, VGG, BERT and autoencoder, from Haiku's names to ours.

Like `haiku`, which converts what is made of dense layers alone, and
`haiku_resnet`: functions of names and arrays, linear in the arrays.

- enn keeps convolutional networks as an ensemble of K, with K in front of the
  other axes, and batch norm with axes of size 1 for the batch and the image. Of
  what batch norm averages it keeps two forms, see `haiku_resnet`.
- enn's BERT ends in its pooled feature, and its classifier is a head; `Bert`
  has the classifier of its own, `out`, which is not among what is converted.
- enn's autoencoder has a layer for the mean and one for the log-variance; here
  they are the halves of one.
"""

from collections.abc import Mapping
import re
from typing import Any

import numpy as np

from flax_enn.checkpoints import haiku
from flax_enn.checkpoints.haiku import Params

_CONVNET = {
    'conv_2d_': 'conv_', 'batchnorm_': 'norm_', 'linear': 'dense',
    'logits': 'out',
}  # fmt: skip
_BERT = {
    'query': 'query', 'keys': 'key', 'values': 'value',
    'attention_output_dense': 'attention',
    'attention_output_ln': 'attention_norm',
    'intermediate_output': 'intermediate', 'layer_output': 'output',
    'layer_output_ln': 'output_norm', 'embeddings_ln': 'embedding_norm',
    'mlm_dense': 'words_dense', 'mlm_ln': 'words_norm',
    'pooler_dense': 'pooler', 'word_embeddings': 'word_embedding',
    'position_embeddings': 'position_embedding',
    'token_type_embeddings': 'segment_embedding',
}  # fmt: skip
_LEAVES = {
    'w': 'kernel', 'b': 'bias', 'scale': 'scale', 'offset': 'bias',
    'embeddings': 'embedding',
}  # fmt: skip


def convnet(params: Params) -> dict[str, Any]:
  """K networks -> `LeNet5` or `VGG`, with a leading axis K.

  Raises:
    ValueError: a module is in none of enn's.

  >>> sorted(convnet({'vgg/~/batchnorm_3': {'offset': np.zeros((2, 1, 8))}}))
  ['norm_3']
  """
  return {
      _in_convnet(module): batch_norm(leaves)
      if 'offset' in leaves
      else haiku.dense(leaves)
      for module, leaves in params.items()
  }


def convnet_statistics(state: Params, of: str = 'average') -> dict[str, Any]:
  """Running statistics of K networks: enn's `average`, or its `hidden`."""
  modules = {name.rpartition('/~/')[0] for name in state}
  return {
      _in_convnet(module): batch_statistics(state, module, of)
      for module in modules
  }


def _in_convnet(module: str) -> str:
  """`vgg/~/batchnorm_3` -> `norm_3`."""
  found = re.fullmatch(r'[^/]*/~/(.*?)(\d*)', module)
  if not found or found[1] not in _CONVNET:
    raise ValueError(
        f'the module {module!r} is in no LeNet-5 or VGG of enn; for a residual'
        ' network use `haiku_resnet.params`'
    )
  return f'{_CONVNET[found[1]]}{found[2]}'


def batch_norm(leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """K batch norms `[K, 1, …, ch]`, without a scale or with -> `[K, ch]`."""
  return {_LEAVES[name]: _channels(leaf) for name, leaf in leaves.items()}


def batch_statistics(
    state: Params, module: str, of: str = 'average'
) -> dict[str, np.ndarray]:
  """The running statistics of K batch norms, `[K, ch]`."""
  return {
      name: _channels(state[f'{module}/~/{name}_ema'][of])
      for name in ('mean', 'var')
  }


def _channels(leaf: np.ndarray) -> np.ndarray:
  return leaf.reshape(len(leaf), -1)


def bert(params: Params) -> dict[str, Any]:
  """`BERT` -> `Bert` without `out`; modules outside of it are left out.

  Raises:
    ValueError: a module in it is none of enn's.
  """
  tree: dict[str, Any] = {}
  for module, leaves in params.items():
    if not module.startswith('BERT/'):
      continue
    part = module.rsplit('/', 1)[1]
    if part == 'mlm_bias':
      tree['words_bias'] = leaves['b']
      continue
    target = tree
    if match := re.fullmatch(r'(\w+?)_(\d+)', part):
      part, number = match.groups()
      target = tree.setdefault(f'layer_{number}', {})
    if part not in _BERT:
      raise ValueError(f'the module {module!r} is in no BERT of enn')
    target[_BERT[part]] = {_LEAVES[k]: v for k, v in leaves.items()}
  return tree


def autoencoder(params: Params) -> dict[str, Any]:
  """`make_vae_enn` of an MLP's encoder and decoder -> `extras.MLPVAE`."""
  both = ['mean', 'log_var']
  gaussian = 'decoder_log_var' in params
  return {
      'encoder': _coder(params, 'encoder', both),
      'decoder': _coder(params, 'decoder', both if gaussian else both[:1]),
  }


def _coder(params: Params, name: str, heads: list[str]) -> dict[str, Any]:
  layers = [haiku.dense(p) for p in haiku.unnamed_layers(params, name)]
  halves = [haiku.dense(params[f'{name}_{head}']) for head in heads]
  layers.append({
      leaf: np.concatenate([half[leaf] for half in halves], -1)
      for leaf in ('kernel', 'bias')
  })
  return {f'layer_{i}': layer for i, layer in enumerate(layers)}
