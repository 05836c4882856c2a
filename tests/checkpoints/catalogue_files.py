"""Made-up files in the form of DeepMind's catalogue.

Written by Python's own pickle. What a file names (dill, Haiku) is installed
nowhere: modules of these names exist while a file is written.
"""

import contextlib
import pickle
import sys
import types
from unittest import mock

import numpy as np

from flax_enn.checkpoints import haiku_resnet
from flax_enn.networks.backbones.resnet import ResNet


def called(module, name):
  """A function that goes by this name in a pickle."""

  def function(*args):
    raise AssertionError(f'{name}{args} was called')

  function.__module__, function.__qualname__ = module, name
  return function


CREATE_ARRAY = called('dill._dill', '_create_array')
FLAT_MAPPING = called('haiku._src.data_structures', 'FlatMapping')


class Call:
  """In a pickle: the result of a function."""

  def __init__(self, function, *args):
    self.reduced = function, args

  def __reduce__(self):
    return self.reduced


def array(values):
  """As dill writes an array."""
  return Call(CREATE_ARRAY, *values.__reduce__(), None)


def dump(tree, protocol=4, leaf=array, mapping=dict):
  """The content of a file with nested dicts of arrays.

  Args:
    tree: nested dicts.
    protocol: of pickle.
    leaf: what an array is written as.
    mapping: what a dict is written as.
  """

  def written(tree):
    if isinstance(tree, dict):
      return mapping({k: written(v) for k, v in tree.items()})
    return leaf(tree) if isinstance(tree, np.ndarray) else tree

  with named(CREATE_ARRAY, FLAT_MAPPING):
    return pickle.dumps(written(tree), protocol)


@contextlib.contextmanager
def named(*functions):
  """Modules where functions go by their names."""
  modules = {}
  for f in functions:
    for n in range(f.__module__.count('.') + 1):
      name = f.__module__.rsplit('.', n)[0]
      modules.setdefault(name, types.ModuleType(name))
    setattr(modules[f.__module__], f.__qualname__, f)
  with mock.patch.dict(sys.modules, modules):
    yield


def base(depth, classes, seed=0):
  """What a base has, drawn at random."""
  rng = np.random.default_rng(seed)

  def draw(module, name, spec):
    if spec.dtype == np.int32:
      return np.full(spec.shape, 3, np.int32)
    values = rng.standard_normal(spec.shape, np.float32)
    if module.endswith('var_ema'):
      return 0.5 + np.square(values)
    if name == 'scale':
      return 1 + 0.1 * values
    return values / np.float32(np.sqrt(max(1, np.prod(spec.shape[1:-1]))))

  return {
      collection: {
          module: {name: draw(module, name, s) for name, s in leaves.items()}
          for module, leaves in modules.items()
      }
      for collection, modules in haiku_resnet.specs(
          ResNet(classes, depth)
      ).items()
  }


def epinet(features, classes, index_dim, seed=1):
  """What an epinet has."""
  rng = np.random.default_rng(seed)
  sizes = [(index_dim + features, 50), (50, classes * index_dim)]
  params = {}
  for net in ('train_epinet', 'prior_epinet'):
    for i, size in enumerate(sizes):
      w = rng.standard_normal(size, np.float32) / np.float32(np.sqrt(size[0]))
      b = rng.standard_normal(size[1:], np.float32)
      params[f'{net}/~/mlp/~/linear_{i}'] = {'w': w, 'b': b}
  return {'params': params, 'state': {}}
