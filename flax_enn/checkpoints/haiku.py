"""Parameters of enn's Haiku networks as those of ours.

Pure functions of names and arrays: here for everything made of dense layers, in
`haiku_resnet` for residual networks and conv priors, in `haiku_backbones` for
the rest. The importer of the catalogue and the golden tests have no others;
docs/migrating.md says which is for what. Haiku keeps parameters as module ->
name -> array; the functions return the `params` of one of our modules. They are
linear in the arrays, so that they convert gradients too. Where the two
libraries lay out the same function differently:

- An ensemble's index is an integer in enn, and one-hot here.
- enn concatenates z with a layer's inputs, and an epinet emits C·D outputs;
  here z enters beside them (`IndexDense`), and the last kernel is contracted
  with z first (`IndexContract`). In front of the inputs in epinets, behind them
  in index MLPs and random priors.
- enn's prior epinet sits among the trainable parameters with a gradient of
  zero; here it is in the collection `frozen`, and there is no gradient.
- enn keeps members on the last axis in its einsum ensembles, on the first in
  its other ones; here it is always the first.
- A hypermodel has one dense layer for every array of its base in enn, and Bayes
  by backprop one vector for all of them; here both hold trees like the
  parameters of the base.
"""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any

import jax
import numpy as np

# Module -> name -> array.
Params = Mapping[str, Mapping[str, np.ndarray]]


def dense(p: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """`Linear`, or K of them with a leading axis K."""
  return {'kernel': p['w'], 'bias': p['b']}


def layers(params: Params, prefix: str) -> list[Mapping[str, np.ndarray]]:
  """The modules `prefix0`, `prefix1`, … that there are."""
  numbers = itertools.takewhile(
      lambda i: f'{prefix}{i}' in params, itertools.count()
  )
  return [params[f'{prefix}{i}'] for i in numbers]


def unnamed_layers(params: Params, module: str) -> list[Any]:
  """The modules `module`, `module_1`, `module_2`, … that there are."""
  first = [params[module]] if module in params else []
  later = itertools.takewhile(
      lambda i: f'{module}_{i}' in params, itertools.count(1)
  )
  return first + [params[f'{module}_{i}'] for i in later]


def mlp(params: Params, module: str) -> dict[str, Any]:
  """`hk.nets.MLP`, or K of them with a leading axis K -> `MLP`."""
  found = layers(params, f'{module}/~/linear_')
  return {f'layer_{i}': dense(p) for i, p in enumerate(found)}


def members(params: Params) -> dict[str, Any]:
  """K MLPs with a leading axis K, whatever enn's layout of them."""
  einsum = [m for m in params if m.endswith('/~/ensemble_branch')]
  if not einsum:
    (first,) = (m for m in params if m.endswith('/~/linear_0'))
    return mlp(params, first.removesuffix('/~/linear_0'))
  module = einsum[0].removesuffix('/~/ensemble_branch')
  later = unnamed_layers(params, f'{module}/~/linear')
  found = [params[einsum[0]], *later]
  return {
      f'layer_{i}': {k: np.moveaxis(v, -1, 0) for k, v in dense(p).items()}
      for i, p in enumerate(found)
  }


def mlp_prior(members: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """K MLPs as ours -> `MLPPrior`."""
  return {
      f'{name}_{i}': leaf
      for i in range(len(members))  # a tree that was mapped is sorted by name
      for name, leaf in members[f'layer_{i}'].items()
  }


def stacked(trees: Sequence[Any]) -> Any:
  """Members that are apart, with a leading axis K."""
  return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def mlp_dropout(params: Params, module: str = 'linear') -> dict[str, Any]:
  """`MLPDropoutENN` -> `MLPDropout`."""
  found = unnamed_layers(params, module)
  return {f'layer_{i}': dense(p) for i, p in enumerate(found)}


def gaussian_noise_mlp(params: Params, module: str = 'mlp') -> dict[str, Any]:
  """`GaussianNoiseMLP`, whose biases are pairs -> `GaussianNoise` of `MLP`."""
  base, noise = {}, {}
  for i, p in enumerate(layers(params, f'{module}/~/linear_')):
    base[f'layer_{i}'] = {'kernel': p['w'], 'bias': p['b::0']}
    noise[f'noise_layer_{i}'] = {'scale': p['b::1']}
  return {'base': base, **noise}


def index_dense(p: Mapping[str, np.ndarray], inputs: int) -> dict[str, Any]:
  """A layer of `inputs` and then z, concatenated -> `IndexDense`."""
  return {
      'h': {'kernel': p['w'][:inputs], 'bias': p['b']},
      'z': {'kernel': p['w'][inputs:]},
  }


def index_mlp(params: Params, inputs: int, module: str) -> dict[str, Any]:
  """`ConcatIndexMLP` -> `IndexMLP`; `inputs` is the size of an example."""
  *hidden, out = unnamed_layers(params, f'{module}/linear')
  tree: dict[str, Any] = {'mean': dense(out)}
  for i, p in enumerate(hidden):
    tree[f'layer_{i}'] = index_dense(p, inputs)
    inputs = len(p['b'])
  (of_inputs,) = layers(params, f'{module}/mlp/~/linear_')
  first, last = layers(params, f'{module}/mlp_1/~/linear_')
  parts = (of_inputs, first, last)
  names = ('variance_inputs', 'variance_hidden_layer', 'variance')
  return tree | {name: dense(p) for name, p in zip(names, parts)}


def index_mlp_prior(params: Params, inputs: int, module: str) -> dict[str, Any]:
  """`get_random_mlp_with_index` -> `IndexMLPPrior`."""
  first, *later = layers(params, f'{module}/~/linear_')
  return {'layer_0': index_dense(first, inputs)} | {
      f'layer_{i}': dense(p) for i, p in enumerate(later, 1)
  }


def projected_mlp(
    params: Params, module: str, dim: int, concat_index: bool = True
) -> dict[str, Any]:
  """A network of the index, with its first and its last layer split up."""
  *hidden, last = layers(params, f'{module}/~/mlp/~/linear_')
  tree: dict[str, Any] = {
      f'layer_{i}': dense(p) for i, p in enumerate(hidden)
  }
  if hidden and concat_index:
    first = hidden[0]
    tree['layer_0'] = {
        'z': {'kernel': first['w'][:dim]},
        'h': {'kernel': first['w'][dim:], 'bias': first['b']},
    }
  tree['out'] = {
      'kernel': last['w'].reshape(len(last['w']), -1, dim),
      'bias': last['b'].reshape(-1, dim),
  }
  return tree


def index_dim(params: Params, module: str, classes: int) -> int:
  """D of a network of the index, which emits C·D outputs."""
  return outputs(params, f'{module}/~/mlp/~/linear_') // classes


def hiddens(params: Params, prefix: str) -> tuple[int, ...]:
  """Widths of the hidden layers of an MLP."""
  return tuple(p['w'].shape[-1] for p in layers(params, prefix)[:-1])


def outputs(params: Params, prefix: str) -> int:
  """Outputs of the last layer of an MLP."""
  return layers(params, prefix)[-1]['w'].shape[-1]


def widths(tree: Mapping[str, Any]) -> list[int]:
  """Outputs of each layer of one of our MLPs."""
  return [layer['bias'].shape[-1] for layer in tree.values()]


def base_shapes(inputs: int, sizes: Sequence[int]) -> dict[str, Any]:
  """The parameters of an MLP, abstract: the tree that a base of it has."""
  tree = {}
  for i, (fan_in, size) in enumerate(zip((inputs, *sizes), sizes)):
    tree[f'layer_{i}'] = {
        'kernel': jax.ShapeDtypeStruct((fan_in, size), np.float32),
        'bias': jax.ShapeDtypeStruct((size,), np.float32),
    }
  return tree


def base_tree(arrays: Sequence[np.ndarray], shapes: Any) -> Any:
  """Arrays `[..., size]`, one for each of a base's, as a tree like the base's.

  Haiku sorts modules and names as JAX sorts ours: layer by layer in the order
  of their names, biases first.
  """
  leaves, treedef = jax.tree.flatten(shapes)
  return jax.tree.unflatten(
      treedef,
      [a.reshape(*a.shape[:-1], *s.shape) for a, s in zip(arrays, leaves)],
  )


def split(vector: np.ndarray, shapes: Any) -> Any:
  """All parameters of a base in one vector `[..., P]`, as a tree."""
  sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
  return base_tree(np.split(vector, np.cumsum(sizes)[:-1], axis=-1), shapes)


def bayes_by_backprop(params: Params, shapes: Any) -> dict[str, Any]:
  """`make_bbb_enn` -> `BayesByBackprop` of a base with these `shapes`."""
  p = params['hyper_fn/diagonal_linear']
  return {'mean': split(p['b'], shapes), 'rho': split(p['w'], shapes)}


def hypermodel(params: Params, shapes: Any) -> dict[str, Any]:
  """`MLPHypermodel` -> `Hypermodel` of a base with these `shapes`."""
  found = unnamed_layers(params, 'hyper_fn/linear')
  torso = layers(params, 'hyper_fn/mlp/~/linear_')
  return {
      'mean': base_tree([p['b'] for p in found], shapes),
      'directions': base_tree([p['w'] for p in found], shapes),
      **{f'torso_{i}': dense(p) for i, p in enumerate(torso)},
  }


def independent_layers_prior(params: Params, module: str) -> dict[str, Any]:
  """`PriorMLPIndependentLayers` -> `IndependentLayersPrior`."""
  tree: dict[str, Any] = {}
  for i, p in enumerate(unnamed_layers(params, f'{module}/~/hyper_linear')):
    tree |= {f'kernel_{i}': p['w'].swapaxes(0, 1), f'bias_{i}': p['b']}
  return tree


def gp_prior(gp: Mapping[str, np.ndarray]) -> dict[str, Any]:
  """The arrays of `make_random_feat_gp` -> `GPPrior`.

  One gamma for all features, and the scale, are fields of ours.
  """
  tree: dict[str, Any] = {
      'weights': gp['weights'],
      'bias': gp['bias'][0],
      'alpha': gp['alpha'] * math.sqrt(len(gp['alpha'])),
  }
  return tree | ({'gamma': gp['gamma'][0]} if gp['gamma'].ndim else {})
