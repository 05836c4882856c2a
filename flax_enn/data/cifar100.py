"""CIFAR-100 with its usual augmentation and enn's cutout."""

import dataclasses
from typing import ClassVar

from flax_enn.data.cifar10 import Cifar10
from flax_enn.likelihoods import Categorical


@dataclasses.dataclass(frozen=True)
class Cifar100(Cifar10):
  """50,000 training and 10,000 test images [32, 32, 3] of 100 fine classes.

  All else is that of `Cifar10`: as in enn, also the mean and deviation
  taken out. enn moves these images by two pixels, and cuts out as much as
  here.
  """

  cutout: int = 16

  tfds_name: ClassVar[str] = 'cifar100:3.*.*'

  @property
  def likelihood(self) -> Categorical:
    return Categorical(100)
