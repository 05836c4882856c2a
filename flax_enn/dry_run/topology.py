"""TPU chips by their published rates, and topologies of them.

No chip is needed to compile for it: libtpu, a package of Google's, describes
the devices of any topology.
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class ChipSpec:
  """What one device can do at best: a chip, or one of two chiplets of tpu7x.

  Attributes:
    hbm: bytes of memory.
    flops: bfloat16 operations in a second.
    hbm_bandwidth: bytes in a second between memory and chip.
    ici_bandwidth: bytes in a second that it sends to others of its slice, over
      all links together.
    ndim: numbers of a topology, such as 2 of `16x16`.
    options: of libtpu's description.
  """

  hbm: int
  flops: float
  hbm_bandwidth: float
  ici_bandwidth: float
  ndim: int
  options: tuple[tuple[str, Any], ...] = ()


# https://cloud.google.com/tpu/docs/v4, v5e, v5p, v6e and tpu7x, "key
# specifications". Of the bidirectional bandwidth of the interconnect, half is
# sent. The page of v4 does not say it: 1.1 PB/s of all-reduce in a pod, divided
# by 4096 chips.
CHIPS = {
    'v4': ChipSpec(
        32 * GIB, 275e12, 1.2e12, 0.268e12, 3,
        # One device for the two cores of a chip, as on real ones.
        (('chip_config_name', 'megacore'),),
    ),
    'v5e': ChipSpec(16 * GIB, 197e12, 0.819e12, 0.2e12, 2),
    'v5p': ChipSpec(95 * GIB, 459e12, 2.765e12, 0.6e12, 3),
    'v6e': ChipSpec(32 * GIB, 918e12, 1.638e12, 0.4e12, 2),
    'tpu7x': ChipSpec(
        # Each chiplet is a device with half of the chip's memory and rates.
        96 * GIB, 2307e12 / 2, 7.38e12 / 2, 0.6e12 / 2, 3,
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Topology:
  """Devices to compile for.

  Attributes:
    generation: a key of `CHIPS`, or `'cpu'`.
    shape: chips in each direction of a slice.
    slices: how many there are, on a network between them.
  """

  generation: str
  shape: tuple[int, ...]
  slices: int = 1

  @classmethod
  def parse(cls, text: str) -> 'Topology':
    """Reads `v5e:16x16`, `v5e:16x16*2` (two slices of that), or `cpu:8`.

    Raises:
      ValueError: it is not one of these.
    """
    pattern = r'(\w+):([1-9]\d*(?:x[1-9]\d*)*)(?:\*([1-9]\d*))?'
    match = re.fullmatch(pattern, text)
    known = f'{", ".join(CHIPS)} and cpu'
    if not match:
      raise ValueError(
          f'--dry_run is {text!r}; expected GENERATION:SHAPE[*SLICES], such as'
          f' v5e:16x16, v5p:4x4x4, v5e:16x16*2 or cpu:8. Generations: {known}'
      )
    generation, sizes, slices = match.groups()
    if generation != 'cpu' and generation not in CHIPS:
      raise ValueError(
          f'--dry_run={text} names {generation!r}; known generations:'
          f' {known}'
      )
    shape = tuple(map(int, sizes.split('x')))
    ndim = 1 if generation == 'cpu' else CHIPS[generation].ndim
    if len(shape) != ndim:
      raise ValueError(
          f'--dry_run={text} has a shape of {len(shape)} numbers; that of'
          f' {generation} has {ndim}, such as'
          f' {generation}:{"x".join(ndim * ["4"])}'
      )
    if generation == 'cpu' and slices:
      raise ValueError(f'--dry_run={text}: emulated devices have no slices')
    return cls(generation, shape, int(slices or 1))

  def __str__(self) -> str:
    shape = 'x'.join(map(str, self.shape))
    slices = f'*{self.slices}' if self.slices > 1 else ''
    return f'{self.generation}:{shape}{slices}'

  @property
  def chip(self) -> ChipSpec | None:
    """The chip; None where devices are emulated."""
    return CHIPS.get(self.generation)

  @property
  def platform(self) -> str:
    """What JAX calls it."""
    return 'tpu' if self.chip else 'cpu'

  def devices(self) -> list[jax.Device]:
    """The devices, none of which can run anything.

    To be called before JAX is used, which is then kept to the CPU.

    Raises:
      ModuleNotFoundError: libtpu is not installed.
      ValueError: there are no such devices.
    """
    size = math.prod(self.shape)
    if self.chip is None:
      return _emulated(size)
    if importlib.util.find_spec('libtpu') is None:
      raise ModuleNotFoundError(
          f'to compile for {self} needs libtpu, which is not installed: pip'
          " install 'flax_enn[tpu]'. (--dry_run=cpu:8 needs nothing)"
      )
    with contextlib.suppress(RuntimeError):  # JAX is in use already.
      jax.config.update('jax_platforms', 'cpu')
    for name, value in _MACHINE.items():
      os.environ.setdefault(name, value)
    options: dict[str, Any] = dict(self.chip.options)
    if self.slices > 1:
      options['num_slices'] = self.slices
    if size == 1:
      options['chips_per_host_bounds'] = (1, 1, 1)
    name = f'{self.generation}:{"x".join(map(str, self.shape))}'
    try:
      description = topologies.get_topology_desc(
          platform='tpu', topology_name=name, **options
      )
    except Exception as e:  # libtpu has many
      raise ValueError(
          f'libtpu does not describe --dry_run={self}: {_reason(e)}. Shapes'
          f' that are sold: {_SOLD[self.chip.ndim]}'
      ) from e
    return list(description.devices)


# Of no influence on what is compiled. Without it libtpu asks Google's
# cloud what machine this is, for minutes, and complains about the answer.
_MACHINE = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
}

_SOLD = {
    2: '2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16',
    3: '2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, 4x4x8 and multiples of four',
}


def _reason(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0].rstrip('.')


def _emulated(size: int) -> list[jax.Device]:
  # Where JAX is in use already, what it has must do.
  with contextlib.suppress(RuntimeError):
    jax.config.update('jax_num_cpu_devices', size)
    jax.config.update('jax_platforms', 'cpu')
  found = jax.devices('cpu')
  if len(found) < size:
    raise ValueError(
        f'--dry_run=cpu:{size}, but JAX has {len(found)} CPU devices here. Set'
        f' XLA_FLAGS=--xla_force_host_platform_device_count={size} before it'
        ' starts'
    )
  return found[:size]
