"""What a section of a config may name: the kinds, and where they are found."""

from collections.abc import Callable
import dataclasses
import importlib
import inspect
import pkgutil

from flax import linen as nn

from flax_enn.data import Dataset
from flax_enn.likelihoods import Likelihood
from flax_enn.losses import Noise


def _takes(*arguments: str) -> Callable[[type], bool]:
  """Whether instances of a class are called with arguments of these names."""

  def accepts(cls: type) -> bool:
    return {*arguments} <= set(inspect.signature(cls.__call__).parameters)

  return accepts


def _has_indexer(cls: type) -> bool:
  """Whether instances have an `indexer`, a property or a field."""
  fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
  return hasattr(cls, 'indexer') or 'indexer' in {f.name for f in fields}


@dataclasses.dataclass(frozen=True)
class Kind:
  """What a section of a config may name.

  Attributes:
    what: the kind in words.
    package: where names are looked up.
    accepts: whether a class is of this kind.
  """

  what: str
  package: str
  accepts: Callable[[type], bool]

  def names(self) -> list[str]:
    """The names in the package that are of this kind."""
    found = {
        name: class_of(name, path)
        for name, path in modules(self.package).items()
    }
    return sorted(
        name
        for name, cls in found.items()
        if cls and dataclasses.is_dataclass(cls) and self.accepts(cls)
    )


NETWORK = Kind(
    'an epistemic network',
    'flax_enn.networks',
    lambda cls: issubclass(cls, nn.Module) and _has_indexer(cls),
)
DATASET = Kind(
    'a data set', 'flax_enn.data', lambda cls: issubclass(cls, Dataset)
)
LIKELIHOOD = Kind(
    'a likelihood',
    'flax_enn.likelihoods',
    lambda cls: issubclass(cls, Likelihood),
)
LOSS = Kind('a loss', 'flax_enn.losses', _takes('outputs'))
NOISE = Kind(
    'noise on data', 'flax_enn.losses', lambda cls: issubclass(cls, Noise)
)
INPUTS = Kind('a choice of inputs', 'flax_enn.losses', _takes('batch', 'key'))
INDICES = Kind(
    'a choice of indices', 'flax_enn.losses', _takes('indexer', 'key')
)
PREPROCESS = Kind('a preprocessing', 'flax_enn.data', _takes('x'))


def class_of(name: str, module: str) -> type | None:
  """The class in a module that a file name stands for, if there is one."""
  for attribute, value in vars(importlib.import_module(module)).items():
    if attribute.lower() == name.replace('_', '') and isinstance(value, type):
      return value
  return None


def modules(package: str) -> dict[str, str]:
  """Name of each file below a package -> its import path."""
  root = importlib.import_module(package)
  found = {}
  for info in pkgutil.iter_modules(root.__path__):
    full = f'{package}.{info.name}'
    found |= modules(full) if info.ispkg else {info.name: full}
  return found
