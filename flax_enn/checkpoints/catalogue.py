"""The entries of DeepMind's catalogue: what each is, as a config of ours.

Networks, scales and temperatures are those of enn: `imagenet.py`, `cifar10.py`
and `cifar100.py` in `enn/checkpoints`.
"""

import dataclasses
from typing import Any, NamedTuple

from etils import epath
import ml_collections

from flax_enn import run_folder
from flax_enn.build import choices
from flax_enn.config import default_config
from flax_enn.networks.backbones.resnet import BOTTLENECK, THIN
from flax_enn.networks.priors.conv_prior import ConvPrior
from flax_enn.run_folder import IMPORT

URL = 'https://storage.googleapis.com/dm-enn'
REPOSITORY = 'https://github.com/google-deepmind/enn'


class Temperatures(NamedTuple):
  """What logits are divided by.

  Attributes:
    base: those of the base.
    epinet: those of the epinet, once the base's are in.
    source: who says so.
  """

  base: float
  epinet: float
  source: str


_NONE = Temperatures(1.0, 1.0, 'enn has none for CIFAR')
_DROPPED = f'{REPOSITORY}: the commit before 11eb695a, which dropped them'
# Data set -> name of a choice -> temperatures.
TEMPERATURES = {
    'imagenet': {
        'enn': Temperatures(
            0.8, 0.7, f'{REPOSITORY}: enn/checkpoints/imagenet.py'
        ),
    },
    'cifar10': {'enn': _NONE, 'dropped': Temperatures(1.1, 0.5, _DROPPED)},
    'cifar100': {'enn': _NONE, 'dropped': Temperatures(1.0, 0.5, _DROPPED)},
}

_OF_CIFAR = {'channels': (4, 8, 4), 'kernels': (5, 5, 5), 'strides': (2, 2, 2)}
_PRIORS: dict[str, dict[str, Any]] = {
    'imagenet': {
        'channels': (4, 8, 8),
        'kernels': (10, 10, 3),
        'strides': (5, 5, 2),
    },
    'cifar10': {**_OF_CIFAR, 'resize': 32},
    'cifar100': {**_OF_CIFAR, 'resize': 32},
}
# Data set -> name here, C, D, scales of the matched and of the conv prior.
_DATA = {
    'imagenet': ('imagenet2012', 1000, 30, 1.0, 1.0),
    'cifar10': ('cifar10', 10, 20, 4.0, 0.0),
    'cifar100': ('cifar100', 100, 20, 0.5, 0.5),
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One of the 28 files.

  Attributes:
    depth: of the residual network.
    data: `imagenet`, `cifar10` or `cifar100`.
    epinet: whether it is an epinet, or a base.
  """

  depth: int
  data: str
  epinet: bool

  @property
  def name(self) -> str:
    """That of its file, without `.npzs`."""
    return f'resnet{self.depth}{"_epinet" * self.epinet}_{self.data}'

  @property
  def base(self) -> 'Entry':
    """The entry that has the base; itself, where it is one."""
    return dataclasses.replace(self, epinet=False)

  @property
  def classes(self) -> int:
    return _DATA[self.data][1]

  @property
  def index_dim(self) -> int:
    return _DATA[self.data][2]

  @property
  def conv_prior(self) -> ConvPrior:
    """The prior of the image, without its scale."""
    return ConvPrior(**_PRIORS[self.data])

  @property
  def conv_prior_scale(self) -> float:
    """enn's; 0 leaves it out."""
    return _DATA[self.data][4] if self.epinet else 0.0

  def temperatures(self, choice: str = 'enn') -> Temperatures:
    """The temperatures that were chosen by name.

    Raises:
      ValueError: there are none of that name for these data.
    """
    known = TEMPERATURES[self.data]
    if choice not in known:
      raise ValueError(
          f'temperatures are {choice!r}, but for {self.name} there are'
          f' {sorted(known)}: enn has only ever changed those of CIFAR'
      )
    return known[choice]

  def config(
      self, temperatures: Temperatures, conv_prior_scale: float
  ) -> ml_collections.ConfigDict:
    """The config of the run that it becomes."""
    dataset, _, index_dim, prior_scale, _ = _DATA[self.data]
    config = default_config()
    config.dataset.update({'name': dataset, 'data_dir': None})
    config.objectives = {'data': {'loss': {'name': 'xent'}}}
    base: dict[str, Any] = {'name': 'resnet', 'depth': self.depth}
    config.eval.base_temperature = temperatures.base
    config.eval.chunk = 8  # as configs/imagenet_epinet.py: it bounds memory
    if not self.epinet:
      config.network = {'name': 'deterministic', 'base': base}
      config.eval.temperature = temperatures.base
      return config
    config.network = {
        'name': 'epinet',
        'base': {**base, 'frozen': True},
        'features': ('pooled',),
        'index_dim': index_dim,
        'hiddens': (50,),
        'base_scale': 1 / temperatures.base,
        'prior_scale': prior_scale,
    }
    if conv_prior_scale:
      section = {'name': 'conv_prior', **_PRIORS[self.data]}
      section |= {'scale': conv_prior_scale}
      config.network.priors = {'conv': section}
    config.eval.num_indices = 1000
    config.eval.temperature = temperatures.epinet
    return config


ENTRIES = {
    entry.name: entry
    for data in _DATA
    for depth in (BOTTLENECK if data == 'imagenet' else THIN)
    for entry in (Entry(depth, data, False), Entry(depth, data, True))
}


def entry(name: str) -> Entry:
  """The entry of a name.

  >>> entry('resnet50_epinet_imagenet').base.name
  'resnet50_imagenet'

  Raises:
    ValueError: there is none; which names are close, and all of them.
  """
  name = name.removesuffix('.npzs')
  if name not in ENTRIES:
    raise ValueError(
        f'the catalogue has no {name!r}{choices(name, list(ENTRIES))}'
    )
  return ENTRIES[name]


def read_card(folder: epath.Path) -> dict[str, Any]:
  """What the folder of an import says about itself.

  Raises:
    ValueError: it is none.
  """
  if not (folder / IMPORT).exists():
    raise ValueError(f'{folder} is no import: it has no {IMPORT}')
  return run_folder.read_json(folder / IMPORT)
